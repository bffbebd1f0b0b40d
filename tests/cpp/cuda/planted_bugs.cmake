# Kernels with one bug each, made from the real ones by replacing one piece of text; planted_bugs_kernels_test.cpp
# demands that every bug is caught. (Removed barriers, waits and fences need no copy: see teeth_test.cpp.)
#
# llama4rt_plant(KERNEL NAME FROM TO): FROM must stand exactly once in csrc/cuda/kernels/KERNEL.cuh, so a plant
# cannot go stale unseen. All copies of a kernel go to ${dir}/KERNEL_bugs.h, each in namespace
# llama4rt::bugs::NAME, with a macro LLAMA4RT_BUGS_OF_KERNEL(X) that lists them.
set(planted_dir ${CMAKE_CURRENT_BINARY_DIR}/planted_bugs)

function(llama4rt_plant kernel name from to)
  set(source ${PROJECT_SOURCE_DIR}/csrc/cuda/kernels/${kernel}.cuh)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  file(READ ${source} text)
  string(REPLACE "${from}" "" without "${text}")
  string(LENGTH "${text}" before)
  string(LENGTH "${without}" after)
  string(LENGTH "${from}" length)
  math(EXPR removed "${before} - ${after}")
  if(NOT removed EQUAL length)
    message(FATAL_ERROR "planted bug ${name}: its text does not stand exactly once in ${kernel}.cuh: ${from}")
  endif()
  string(REPLACE "${from}" "${to}" text "${text}")
  string(REPLACE "#pragma once" "" text "${text}")
  string(REPLACE "namespace llama4rt::cuda {" "namespace llama4rt::bugs::${name} {\nusing namespace llama4rt::cuda;" text
                 "${text}")
  set_property(GLOBAL APPEND_STRING PROPERTY planted_${kernel} "${text}\n")
  set_property(GLOBAL APPEND_STRING PROPERTY planted_names_${kernel} " X(${name})")
endfunction()

function(llama4rt_write_planted kernel)
  get_property(text GLOBAL PROPERTY planted_${kernel})
  get_property(names GLOBAL PROPERTY planted_names_${kernel})
  string(TOUPPER ${kernel} upper)
  file(CONFIGURE OUTPUT ${planted_dir}/${kernel}_bugs.h CONTENT "${text}\n#define LLAMA4RT_BUGS_OF_${upper}(X)${names}\n"
       @ONLY)
endfunction()

llama4rt_plant(rmsnorm writes_past_the_row "i < a.dim; i += kThreads) out[i]" "i <= a.dim; i += kThreads) out[i]")
llama4rt_plant(rmsnorm reads_past_the_row "i < a.dim; i += kThreads) sum" "i <= a.dim; i += kThreads) sum")
llama4rt_plant(rmsnorm one_weight_for_all "a.weight[i]" "a.weight[0]")
llama4rt_plant(rmsnorm wrong_token "a.x + token * a.x_stride" "a.x + (token + 1) / 2 * a.x_stride")
llama4rt_plant(rmsnorm eps_outside "/ float(a.dim) + a.eps)" "/ float(a.dim))")
llama4rt_write_planted(rmsnorm)

llama4rt_plant(linear_int4_decode reads_past_k "column + 1 < a.k" "column < a.k")
llama4rt_plant(linear_int4_decode reads_past_the_tokens "token < num_tokens" "token <= num_tokens")
llama4rt_plant(linear_int4_decode writes_past_the_rows "if (n >= a.n) continue" "if (n > a.n) continue")
llama4rt_plant(linear_int4_decode scales_of_the_other_rows "r < 2 ? scale0 : scale1" "r < 2 ? scale1 : scale0")
llama4rt_plant(linear_int4_decode zero_of_the_other_rows "minus_bias[r % 2]" "minus_bias[0]")
llama4rt_plant(linear_int4_decode columns_of_the_wrong_lane "lane / 8 * 8" "lane % 4 * 8")
llama4rt_plant(linear_int4_decode one_stage_too_few "ptx::shared_address(shared_stages + tile % Config::kStages"
               "ptx::shared_address(shared_stages + tile % (Config::kStages - 1)")
llama4rt_plant(linear_int4_decode waits_for_one_group_less "    ptx::copy_wait<Config::kStages - 2>();\n"
               "    ptx::copy_wait<Config::kStages - 1>();\n")
llama4rt_plant(linear_int4_decode forgets_the_ticket "if (last) *ticket = 0" "if (false) *ticket = 0")
llama4rt_plant(linear_int4_decode adds_one_split_less "s < grid_y()" "s + 1 < grid_y()")
llama4rt_plant(linear_int4_decode ticket_too_early "== uint32_t(grid_y() - 1)" "== uint32_t(grid_y() - 2)")
llama4rt_plant(linear_int4_decode keeps_group_sums "      group_sums.clear();\n    }" "    }")
llama4rt_plant(linear_int4_decode nibbles_in_another_order "word >> (4 * r)" "word >> (4 * (r ^ 1))")
llama4rt_plant(linear_int4_decode scales_of_another_split "first_column / Config::kGroup" "0 / Config::kGroup")
llama4rt_plant(linear_int4_decode missing_rows_are_loaded "if (tile < tiles && has_rows)" "if (tile < tiles)")
llama4rt_write_planted(linear_int4_decode)
