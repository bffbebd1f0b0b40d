// The compiled kernels: every PTX file of a folder (scripts/ptx_compile.py makes it), decoded one kernel at a time, when
// it is first launched.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
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
  const std::set<std::string>& used() const { return ever_used_; }

  // For tests: the text of one file ("rmsnorm") is changed for as long as one of these lives.
  using Change = std::function<std::string(const std::string& text)>;
  class Changed {
   public:
    Changed(Library& library, std::string file, const Change& change);
    ~Changed();
    Changed(const Changed&) = delete;
    Changed& operator=(const Changed&) = delete;

   private:
    Library& library_;
    std::string file_;
  };

 private:
  void read(const std::string& file, const Change& change);
  std::string folder_, target_;
  std::map<std::string, std::unique_ptr<ModuleText>> modules_;  // by file
  std::map<std::string, const ModuleText*> by_name_;            // of kernels, as the host spells names
  std::map<std::string, std::string> spelled_;                  // -> as the file spells them
  std::map<std::string, std::shared_ptr<const Program>> programs_;
  std::set<std::string> ever_used_;
};

}  // namespace llama4rt::ptx_executor
