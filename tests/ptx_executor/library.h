// The compiled kernels: every PTX file of a folder (scripts/ptx_compile.py makes it), decoded one kernel at a time, when
// it is first launched.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptx_executor/program.h"
#include "ptx_executor/syntax.h"

namespace llama4rt::ptx_executor {

class Library {
 public:
  // Reads all *.ptx of `folder`; throws when there are none.
  explicit Library(const std::string& folder);

  // Of a kernel by its mangled name; throws when the folder does not have it, or it cannot be executed.
  std::shared_ptr<const Program> program(const std::string& name);
  const std::string& target() const { return target_; }  // "sm_90a"
  std::vector<std::string> names() const;
  // Of every kernel asked for so far.
  std::vector<std::string> used() const;

  // For tests: from now on kernels come from this text in place of the file's.
  using Change = std::function<std::string(const std::string& text)>;
  void change_text(const Change& change);

 private:
  void read(const std::string& path, const Change& change);
  std::string folder_, target_;
  std::vector<std::unique_ptr<ModuleText>> modules_;
  std::map<std::string, const ModuleText*> by_name_;  // as the host spells names
  std::map<std::string, std::string> spelled_;        // -> as the file spells them
  std::map<std::string, std::shared_ptr<const Program>> programs_;
};

}  // namespace llama4rt::ptx_executor
