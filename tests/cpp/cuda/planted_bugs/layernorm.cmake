llama4rt_plant(layernorm layernorm_writes_past_the_row "store4<kAligned>(out, i, a.dim, x)"
               "store4<kAligned>(out, i, a.dim + 1, x)")
llama4rt_plant(layernorm layernorm_reads_past_the_row "for (int j = 0; j < 4; ++j) sum += x.v[j]"
               "for (int j = 0; j < 5; ++j) sum += j < 4 ? x.v[j] : row[i + 4]")
llama4rt_plant(layernorm layernorm_counts_what_is_not_there "i + j < a.dim ? x.v[j] - mean : 0.0f" "x.v[j] - mean")
llama4rt_plant(layernorm layernorm_squares_of_values "i + j < a.dim ? x.v[j] - mean : 0.0f" "x.v[j]")
llama4rt_plant(layernorm layernorm_bias_is_the_weight "load4<kAligned>(a.bias, i, a.dim)" "load4<kAligned>(a.weight, i, a.dim)")
llama4rt_plant(layernorm layernorm_wrong_token "a.x + token * a.x_stride" "a.x + (token + 1) / 2 * a.x_stride")
llama4rt_plant(layernorm layernorm_eps_outside "/ float(a.dim) + a.eps)" "/ float(a.dim))")
llama4rt_write_planted(layernorm)
