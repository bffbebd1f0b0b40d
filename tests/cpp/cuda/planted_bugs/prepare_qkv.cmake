llama4rt_plant(prepare_qkv turns_the_other_way "re[i] = ptx::fma(x, cosine, -(y * sine))" "re[i] = ptx::fma(x, cosine, y * sine)")
llama4rt_plant(prepare_qkv angles_of_the_first_token "a.rope + token * dim" "a.rope")
llama4rt_plant(prepare_qkv norm_of_one_lane "warp_sum(sum) / float(2 * pairs)" "sum / float(2 * pairs)")
llama4rt_plant(prepare_qkv reads_past_the_head "const bool exists = pair(i) < pairs" "const bool exists = pair(i) <= pairs")
llama4rt_plant(prepare_qkv keys_get_the_temperature "if (is_q && a.q_scale)" "if (a.q_scale)")
llama4rt_plant(prepare_qkv stores_in_the_other_head "head_of_block(kv, slot / kv.block_size, head)"
               "head_of_block(kv, slot / kv.block_size, 1 - head)")
llama4rt_plant(prepare_qkv slot_of_the_next_token "store_in_cache(x, a.kv, true, a.slots[token], kv_head)"
               "store_in_cache(x, a.kv, true, a.slots[token] ^ 1, kv_head)")
llama4rt_plant(prepare_qkv values_like_keys "return is_key ? key_place<Element>(kv, key, d) : value_place<Element>(kv, key, d)"
               "return key_place<Element>(kv, key, d)")
llama4rt_plant(prepare_qkv keys_in_another_order "d / 8 * 64 + row * 8 + d % 8" "d / 8 * 64 + d % 8 * 8 + row")
llama4rt_write_planted(prepare_qkv)
