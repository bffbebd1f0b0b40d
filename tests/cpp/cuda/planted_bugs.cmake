# Kernels with one bug each, made from the real ones by replacing one piece of text; KERNEL_bugs_kernels_test.cpp
# demands that every bug is caught. The plants of each kernel are in planted_bugs/KERNEL.cmake. (Removed barriers,
# waits and fences need no copy: see teeth.h.)
#
# llama4rt_plant(KERNEL NAME FROM TO): FROM must stand exactly once in csrc/cuda/kernels/KERNEL.cuh or in the headers of
# csrc/cuda/device/ that it includes itself, so a plant cannot go stale unseen. All copies of a kernel go to
# ${dir}/KERNEL_bugs.h, each in namespace llama4rt::bugs::NAME, with a macro LLAMA4RT_BUGS_OF_KERNEL(X) that lists them.
set(planted_dir ${CMAKE_CURRENT_BINARY_DIR}/planted_bugs)

# KERNEL_general is the same kernel with bugs in what general weights do otherwise: FROM may stand in any header that is
# included, at any depth. Copies of a kernel that has such a part have all its headers in their text, since their types
# must be the copy's; FROM is looked for in the kernel's own.

# Puts the text of headers in place of their #include, once each; those of `sources` are there already.
function(llama4rt_expand kernel text_name sources_name)
  set(text "${${text_name}}")
  set(sources "${${sources_name}}")
  set(include "#include \"(cuda/device/[a-z0-9_]+\\.cuh|cuda/kernels/decode_args\\.h|cuda/kernels/${kernel}_general\\.cuh)\"")
  while(text MATCHES "${include}")
    set(line "${CMAKE_MATCH_0}")
    set(header ${PROJECT_SOURCE_DIR}/csrc/${CMAKE_MATCH_1})
    set(body "")
    if(NOT header IN_LIST sources)
      file(READ ${header} body)
      list(APPEND sources ${header})
    endif()
    string(FIND "${text}" "${line}" begin)
    string(LENGTH "${line}" length)
    string(SUBSTRING "${text}" 0 ${begin} before)
    math(EXPR begin "${begin} + ${length}")
    string(SUBSTRING "${text}" ${begin} -1 after)
    set(text "${before}${body}${after}")
  endwhile()
  set(${text_name} "${text}" PARENT_SCOPE)
  set(${sources_name} "${sources}" PARENT_SCOPE)
endfunction()

# The text of a kernel, with the text of each device header in place of its #include, and the files it is from.
function(llama4rt_kernel_text kernel text_name sources_name)
  set(sources ${PROJECT_SOURCE_DIR}/csrc/cuda/kernels/${kernel}.cuh)
  file(READ ${sources} text)
  set(include "#include \"(cuda/device/[a-z0-9_]+\\.cuh)\"")
  string(REGEX MATCHALL "${include}" includes "${text}")
  foreach(line IN LISTS includes)
    string(REGEX REPLACE "${include}" "\\1" header "${line}")
    file(READ ${PROJECT_SOURCE_DIR}/csrc/${header} body)
    # Once, where it stands first: a header before it may include it, too.
    string(FIND "${text}" "${line}" begin)
    string(LENGTH "${line}" length)
    string(SUBSTRING "${text}" 0 ${begin} before)
    math(EXPR begin "${begin} + ${length}")
    string(SUBSTRING "${text}" ${begin} -1 after)
    string(REPLACE "${line}" "" after "${after}")
    set(text "${before}${body}${after}")
    list(APPEND sources ${PROJECT_SOURCE_DIR}/csrc/${header})
  endforeach()
  set(${text_name} "${text}" PARENT_SCOPE)
  set(${sources_name} "${sources}" PARENT_SCOPE)
endfunction()

function(llama4rt_plant kernel name from to)
  string(REGEX REPLACE "_general$" "" base ${kernel})
  llama4rt_kernel_text(${base} text sources)
  if(NOT base STREQUAL kernel)
    llama4rt_expand(${base} text sources)
  endif()
  string(REPLACE "${from}" "" without "${text}")
  string(LENGTH "${text}" before)
  string(LENGTH "${without}" after)
  string(LENGTH "${from}" length)
  math(EXPR removed "${before} - ${after}")
  if(NOT removed EQUAL length)
    message(FATAL_ERROR "planted bug ${name}: its text does not stand exactly once in ${kernel}.cuh: ${from}")
  endif()
  string(REPLACE "${from}" "${to}" text "${text}")
  if(EXISTS ${PROJECT_SOURCE_DIR}/csrc/cuda/kernels/${base}_general.cuh)
    llama4rt_expand(${base} text sources)
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${sources})
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

file(GLOB plants CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/planted_bugs/*.cmake)
foreach(plant IN LISTS plants)
  include(${plant})
endforeach()
