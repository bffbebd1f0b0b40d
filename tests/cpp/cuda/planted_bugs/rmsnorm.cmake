llama4rt_plant(rmsnorm writes_past_the_row "store4<kAligned>(out, i, a.dim, x)" "store4<kAligned>(out, i, a.dim + 1, x)")
llama4rt_plant(rmsnorm reads_past_the_row "F32x4 x = load4<kAligned>(row, i, a.dim);\n    if (residual)"
               "F32x4 x = load4<kAligned>(row, i, a.dim + 1);\n    if (residual)")
llama4rt_plant(rmsnorm one_weight_for_all "load4<kAligned>(a.weight, i, a.dim)" "load4<kAligned>(a.weight, 0, a.dim)")
llama4rt_plant(rmsnorm wrong_token "a.x + token * a.x_stride" "a.x + (token + 1) / 2 * a.x_stride")
llama4rt_plant(rmsnorm eps_outside "/ float(a.dim) + a.eps)" "/ float(a.dim))")
llama4rt_plant(rmsnorm half_of_the_columns "for (int j = 0; j < 4; ++j) sum = " "for (int j = 0; j < 2; ++j) sum = ")
llama4rt_write_planted(rmsnorm)
