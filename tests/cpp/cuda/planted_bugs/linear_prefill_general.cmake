llama4rt_plant(linear_prefill_general groups_never_begin "j > 0 || !group_begins<Weights>(table.g, column)" "true")
llama4rt_plant(linear_prefill_general scale_of_the_other_row "[part][j % 4 / 2]" "[part][1 - j % 4 / 2]")
llama4rt_plant(linear_prefill_general forgets_the_totals "first ? sums[j] : totals[j * Config::kConsumers] + sums[j]"
               "first ? sums[j] : 0 * totals[j * Config::kConsumers] + sums[j]")
llama4rt_plant(linear_prefill_general does_not_wait_for_a_box "ptx::mbarrier_wait(now.full(), now.parity);" "")
llama4rt_plant(linear_prefill_general keeps_a_box "      if (lane_index() == 0) ptx::mbarrier_arrive(now.empty());\n      if" "      if")
llama4rt_plant(linear_prefill_general zeros_of_the_step_before "table.zero(row_block[0], group, row[0])" "table.zero(row_block[0], group - 1, row[0])")
llama4rt_plant(linear_prefill_general reads_boxes_as_weights "i + 1 < steps && after.of_k()" "i + 1 < steps")
llama4rt_write_planted(linear_prefill_general)
