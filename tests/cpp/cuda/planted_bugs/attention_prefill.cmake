llama4rt_plant(attention_prefill next_page "s.blocks[granule / per_block]" "s.blocks[granule / per_block + 1]")
llama4rt_plant(attention_prefill place_in_the_page "granule % per_block * kGranuleKeys" "0 * kGranuleKeys")
llama4rt_plant(attention_prefill loads_past_the_end "* kGranuleKeys >= keys) break" "* kGranuleKeys > keys) break")
llama4rt_plant(attention_prefill one_stage "tile % 2 * Config::kStageBytes" "0 * tile")
llama4rt_plant(attention_prefill does_not_wait "ptx::copy_wait<0>()" "ptx::copy_wait<1>()")
llama4rt_plant(attention_prefill stale_stage "load_key_tile<Config>(a, s, sequence, kv_head, stage(tile + 1), tile + 1, keys)"
               "load_key_tile<Config>(a, s, sequence, kv_head, stage(tile + 1), tile, keys)")
llama4rt_plant(attention_prefill values_where_keys_are "uint32_t((kTileGranules + i) * Head::kMaxGranuleBytes)"
               "uint32_t(i * Head::kMaxGranuleBytes)")
llama4rt_plant(attention_prefill keys_of_the_first_warp "? keys_before(first_row + kWarpRows) : 0" "? keys_before(block_row + 1) : 0")
llama4rt_plant(attention_prefill counts_splits_twice "      split.clear();\n      ++splits;" "      ++splits;")
llama4rt_plant(attention_prefill forgets_the_last_split "  merge_split(total, split, a.scale);\n  store_rows" "  store_rows")
llama4rt_plant(attention_prefill rows_that_are_missing "if (row >= s.num_rows) continue;" "if (row > s.num_rows) continue;")
llama4rt_plant(attention_prefill sees_its_successor ">= seen" "> seen")
llama4rt_plant(attention_prefill merges_without_factors "ptx::fma(total, total_factor, split * split_factor)" "total + split")
llama4rt_plant(attention_prefill values_past_the_end "pair_mask(keys - 2 * t - 8)" "pair_mask(keys - 2 * t)")
llama4rt_plant(attention_prefill maximum_of_two_lanes "for (int step = 1; step < 4; step *= 2) {\n    const float other"
               "for (int step = 1; step < 2; step *= 2) {\n    const float other")
llama4rt_write_planted(attention_prefill)
