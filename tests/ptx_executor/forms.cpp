#include "ptx_executor/forms.h"

#include <algorithm>

#include "base/error.h"

namespace llama4rt::ptx_executor {

void Forms::add(std::string opcode, std::vector<Type> types, Run run) {
  const bool is_new = table_.emplace(opcode, Form{std::move(types), run, nullptr}).second;
  LLAMA4RT_CHECK(kInternal, is_new, "instruction ", opcode, " stands twice in the table");
}

void Forms::add(std::string opcode, Build build) {
  const bool is_new = table_.emplace(opcode, Form{{}, nullptr, build}).second;
  LLAMA4RT_CHECK(kInternal, is_new, "instruction ", opcode, " stands twice in the table");
}

const Form* Forms::find(const std::string& opcode) const {
  const auto it = table_.find(opcode);
  return it == table_.end() ? nullptr : &it->second;
}

std::vector<std::string> Forms::opcodes() const {
  std::vector<std::string> all;
  for (const auto& [opcode, form] : table_) all.push_back(opcode);
  std::sort(all.begin(), all.end());
  return all;
}

const Forms& forms() {
  static const Forms all = [] {
    Forms f;
    for (const auto add :
         {add_integer_forms, add_bit_forms, add_float_forms, add_conversion_forms, add_predicate_forms,
          add_move_forms, add_memory_forms, add_control_forms, add_lane_forms, add_barrier_forms,
          add_copy_forms, add_mbarrier_forms, add_bulk_forms, add_matrix_forms, add_wgmma_forms,
          add_atomic_forms, add_tensor_forms, add_register_forms})
      add(f);
    return f;
  }();
  return all;
}

}  // namespace llama4rt::ptx_executor
