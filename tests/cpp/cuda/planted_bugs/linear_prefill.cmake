llama4rt_plant(linear_prefill producer_waits_for_the_wrong_phase "place.parity ^ 1u" "place.parity")
llama4rt_plant(linear_prefill consumer_waits_for_the_wrong_phase "ptx::mbarrier_wait(place.full(), place.parity)"
               "ptx::mbarrier_wait(place.full(), place.parity ^ 1u)")
llama4rt_plant(linear_prefill keeps_the_parity "parity ^= 1u;" "")
llama4rt_plant(linear_prefill ring_is_too_long "if (++stage < Config::kStages)" "if (++stage <= Config::kStages)")
llama4rt_plant(linear_prefill expects_rows_that_are_missing "Config::kXBytes + blocks * tiles"
               "Config::kXBytes + Config::kRowBlocks * tiles")
llama4rt_plant(linear_prefill rows_of_the_first_expert "x_map, tile.first_row, step" "x_map, 0, step")
llama4rt_plant(linear_prefill arrives_too_often "if (lane_index() == 0) ptx::mbarrier_arrive(now" "ptx::mbarrier_arrive(now")
llama4rt_plant(linear_prefill counts_a_warp_too_few "Config::kConsumerWarps);" "Config::kConsumerWarps - 1);")
llama4rt_plant(linear_prefill uses_sums_in_flight "ptx::wgmma_wait<0>" "ptx::wgmma_wait<1>")
llama4rt_plant(linear_prefill steps_of_half_the_width "uint32_t(k16 * 32)" "uint32_t(k16 * 16)")
llama4rt_plant(linear_prefill groups_never_begin "i > 0 || step % Config::kStepsOfGroup != 0" "i > 0 || step != 0")
llama4rt_plant(linear_prefill groups_end_too_late "if ((step + 1) % Config::kStepsOfGroup != 0 && step + 1 < steps)"
               "if (step + 1 < steps)")
llama4rt_plant(linear_prefill scale_of_the_other_row "[i % 4 / 2]" "[i % 2]")
llama4rt_plant(linear_prefill half_of_the_other_row "rows.half[r % 2]" "rows.half[0]")
llama4rt_plant(linear_prefill ups_are_gates "consumer_warp / 2 * 2 + h" "consumer_warp / 2 * 2")
llama4rt_plant(linear_prefill group_of_the_step_before "step * kStepColumns / Weights::kGroup + part"
               "(step * kStepColumns - 1) / Weights::kGroup + part")
llama4rt_plant(linear_prefill forgets_the_totals "first ? sums[i] : totals[i * Config::kConsumers] + sums[i]"
               "first ? sums[i] : sums[i]")
llama4rt_plant(linear_prefill bands_are_always_full "in_band / width" "in_band / Config::kBand")
llama4rt_plant(linear_prefill writes_rows_of_others "if (token >= tile.num_rows) continue;" "")
llama4rt_write_planted(linear_prefill)
