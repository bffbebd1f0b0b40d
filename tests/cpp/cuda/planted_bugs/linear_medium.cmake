llama4rt_plant(linear_medium reads_past_the_rows_of_x "const bool here = token < tile.num_rows;"
               "const bool here = token <= tile.num_rows;")
llama4rt_plant(linear_medium reads_past_the_rows_of_w "if (!has_rows(first_row_block + block)) break;" "")
llama4rt_plant(linear_medium fills_another_stage "ptx::shared_address(ring) + uint32_t(i % Config::kStages"
               "ptx::shared_address(ring) + uint32_t(i % (Config::kStages - 1)")
llama4rt_plant(linear_medium waits_for_one_group_less "ptx::copy_wait<Config::kStages - 2>"
               "ptx::copy_wait<Config::kStages - 1>")
llama4rt_plant(linear_medium fills_the_stage_in_use "b.load_step(i + Config::kStages - 1);"
               "b.load_step(i + Config::kStages);")
llama4rt_plant(linear_medium scale_of_the_other_row "scale[j][r / 2]" "scale[j][r % 2]")
llama4rt_plant(linear_medium zero_of_the_other_row "zero[h] = b.scales.zero(at)" "zero[1 - h] = b.scales.zero(at)")
llama4rt_plant(linear_medium scale_of_the_first_part "/ Weights::kGroup + part" "/ Weights::kGroup")
llama4rt_plant(linear_medium columns_of_the_wrong_lane "lane / 8 % 2 * 8" "lane / 16 * 8")
llama4rt_plant(linear_medium rows_of_the_wrong_lane "lane / 16 * 8 + lane % 8" "lane % 8")
llama4rt_plant(linear_medium keeps_group_sums "sums.value[j][t][r] = ptx::fma(v, scale[j][r / 2], sums.value[j][t][r]);
      v = 0.0f;" "sums.value[j][t][r] = ptx::fma(v, scale[j][r / 2], sums.value[j][t][r]);")
llama4rt_plant(linear_medium adds_one_split_less "s < grid_y(); ++s" "s + 1 < grid_y(); ++s")
llama4rt_plant(linear_medium forgets_the_totals "first ? v : *total + v" "first ? v : v")
llama4rt_plant(linear_medium blocks_of_no_tile_work "if (block_z() >= tiles.total()) return;" "")
llama4rt_plant(linear_medium writes_past_the_rows_of_w "if (n >= a.n) return" "if (n > a.n) return")
llama4rt_plant(linear_medium forgets_the_picks "a.picks ? a.picks[row] : row" "a.picks ? row : row")
llama4rt_plant(linear_medium weights_of_the_first_expert "a.weights + expert * a.matrix_bytes"
               "a.weights + 0 * expert * a.matrix_bytes")
llama4rt_plant(linear_medium scales_of_the_first_expert "expert * a.matrix_scales" "0 * expert * a.matrix_scales")
llama4rt_write_planted(linear_medium)
