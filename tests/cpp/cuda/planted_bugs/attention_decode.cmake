llama4rt_plant(attention_decode next_page "blocks[(first_granule + granule) / per_block]"
               "blocks[(first_granule + granule + 1) / per_block]")
llama4rt_plant(attention_decode place_in_the_page "(first_granule + granule) % per_block" "granule % per_block")
llama4rt_plant(attention_decode one_stage_too_few "place + Config::kPartBytes == Config::kRingBytes ?"
               "place + 2 * Config::kPartBytes == Config::kRingBytes ?")
llama4rt_plant(attention_decode waits_for_one_group_less "ptx::copy_wait<Config::kStages - 2>()"
               "ptx::copy_wait<Config::kStages - 1>()")
llama4rt_plant(attention_decode loads_before_it_waits
               "    ptx::sync_warp(0xffffffffu);\n    load(n + Config::kStages - 1);"
               "    load(n + Config::kStages - 1);\n    ptx::sync_warp(0xffffffffu);")
llama4rt_plant(attention_decode skips_the_last_granule "return granule < granules;" "return granule + 1 < granules;")
llama4rt_plant(attention_decode a_split_of_another_block "split += grid_z()" "++split")
llama4rt_plant(attention_decode forgets_the_first_split "for (int split = 0; split < end;" "for (int split = 1; split < end;")
llama4rt_plant(attention_decode sum_of_one_lane "const float sum = row_sum(state.sum[half]);"
               "const float sum = state.sum[half];")
llama4rt_plant(attention_decode merges_too_early "splits < grid_z() ? splits : grid_z()" "splits < grid_z() ? splits : 1")
llama4rt_plant(attention_decode forgets_the_ticket "if (last) *ticket = 0" "if (false) *ticket = 0")
llama4rt_plant(attention_decode sees_its_successor ">= seen" "> seen")
llama4rt_plant(attention_decode another_head_of_the_group
               "int64_t(kv_head * a.group + row % a.group) * a.q_dim;\n      const auto pair"
               "int64_t(kv_head * a.group + (row + 1) % a.group) * a.q_dim;\n      const auto pair")
llama4rt_plant(attention_decode keys_of_another_token "first_keys + row / a.group * keys_per_token"
               "first_keys + (row + a.group) / a.group * keys_per_token")
llama4rt_plant(attention_decode values_past_the_end "pair_mask(keys - 2 * t - 8)" "pair_mask(keys - 2 * t)")
llama4rt_plant(attention_decode factor_of_the_other_row "out[j][i] *= factor[i / 2]" "out[j][i] *= factor[i % 2]")
llama4rt_plant(attention_decode sums_keep_their_maximum "ptx::fma(state.sum[half], factors[tile][half], notes.sums[tile][half][lane])"
               "state.sum[half] + notes.sums[tile][half][lane]")
llama4rt_plant(attention_decode dims_in_another_order "(2 * step + half) * 128" "(2 * step + 1 - half) * 128")
llama4rt_plant(attention_decode keys_of_the_other_octet "weights[j / 2][j % 2 * 2 + half] = pair"
               "weights[j / 2][(1 - j % 2) * 2 + half] = pair")
llama4rt_plant(attention_decode maximum_of_another_tile "notes.maxima[tile][g + 8 * half]" "notes.maxima[warp][g + 8 * half]")
llama4rt_plant(attention_decode keys_of_another_tile "first + warp_index() * kTileGranules + of_round" "first + of_round")
llama4rt_plant(attention_decode values_of_another_quarter "(Config::slice_begin() + lane) * 16" "lane * 16")
llama4rt_plant(attention_decode weights_of_another_tile "= notes.weights[tile][i][lane]" "= notes.weights[warp][i][lane]")
llama4rt_plant(attention_decode factor_of_the_splits_before "exponent.factor(end.maximum)" "exponent.factor(below)")
llama4rt_write_planted(attention_decode)
