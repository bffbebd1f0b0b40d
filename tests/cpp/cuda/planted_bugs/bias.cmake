llama4rt_plant(bias bias_bias_of_the_first_columns "load4<kAligned>(a.bias, column, a.dim)" "load4<kAligned>(a.bias, 0, a.dim)")
llama4rt_plant(bias bias_gelu_before_the_bias "value.v[j] = gelu_exact(value.v[j])"
               "value.v[j] = gelu_exact(value.v[j] - (a.bias ? a.bias[column] : 0.0f))")
llama4rt_plant(bias bias_three_of_four "for (int j = 0; j < 4; ++j) value.v[j] += bias.v[j]"
               "for (int j = 0; j < 3; ++j) value.v[j] += bias.v[j]")
llama4rt_plant(bias bias_writes_past_the_row "store4<kAligned>(row, column, a.dim" "store4<kAligned>(row, column, a.dim + 1")
llama4rt_plant(bias bias_wrong_row "int64_t(block_x()) * a.x_stride" "int64_t(block_x() / 2) * a.x_stride")
llama4rt_write_planted(bias)
