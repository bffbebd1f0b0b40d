# Which folder of csrc/cpu has the vector tables for the processor that is built for, and the instruction-set flags of its
# tables, one set per file; nothing else in the project is built with any of them.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(native_tables x86)
else()
  set(native_tables none) # the scalar table alone
endif()
set(LLAMA4RT_CPU_TABLES ${native_tables} CACHE STRING "Folder of csrc/cpu with the vector tables: x86 or none")
include(${PROJECT_SOURCE_DIR}/csrc/cpu/${LLAMA4RT_CPU_TABLES}/isa_flags.cmake OPTIONAL)

function(llama4rt_isa_flags)
  foreach(file IN LISTS ARGN)
    get_filename_component(isa ${file} NAME_WE)
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${LLAMA4RT_ISA_FLAGS_${isa}}")
  endforeach()
endfunction()
