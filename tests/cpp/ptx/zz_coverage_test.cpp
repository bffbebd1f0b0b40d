// Behind the others: every instruction that the executor claims to know was executed by some test here.
#include "ptx/snippet.h"
#include "ptx_executor/forms.h"

namespace llama4rt::test {

TEST(every_form_was_executed) {
  if (executed_opcodes().size() < 100) return skip("the other tests of this folder did not run");
  std::set<std::string> executed = executed_opcodes();
  // Boxes of tensors need a map from the host: the conformance kernels execute those.
  ptx_executor::Library& library = ptx_executor::library();
  for (const std::string& name : library.used())
    if (name.find("ptx_tensor_kernel") != std::string::npos)
      for (const ptx_executor::Statement& s : library.program(name)->statements) executed.insert(s.opcode);
  std::string missing;
  for (const std::string& opcode : ptx_executor::forms().opcodes())
    if (!executed.contains(opcode)) missing += opcode + " ";
  CHECK_EQ(missing, "");
}

}  // namespace llama4rt::test
