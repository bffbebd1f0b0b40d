#include "ptx_executor/library.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "ptx_executor/symbols.h"

namespace llama4rt::ptx_executor {
namespace {

std::string unchanged(const std::string& text) { return text; }

}  // namespace

Library::Library(const std::string& folder) : folder_(folder) {
  std::vector<std::string> files;
  if (std::filesystem::is_directory(folder_))
    for (const auto& each : std::filesystem::directory_iterator(folder_))
      if (each.path().extension() == ".ptx") files.push_back(each.path().stem());
  LLAMA4RT_CHECK(kInternal, !files.empty(), "no *.ptx in '", folder_, "'; scripts/ptx_compile.py makes them");
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) read(file, unchanged);
}

void Library::read(const std::string& file, const Change& change) {
  const std::string path = folder_ + "/" + file + ".ptx";
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  // What the file had before goes.
  if (const auto before = modules_.find(file); before != modules_.end())
    for (const std::string& name : before->second->module().names) {
      by_name_.erase(as_the_host_spells(name));
      programs_.erase(as_the_host_spells(name));
    }
  const ModuleText& made = *(modules_[file] = std::make_unique<ModuleText>(file + ".ptx", change(text)));
  const Module& m = made.module();
  LLAMA4RT_CHECK(kInternal, target_.empty() || target_ == m.target, path, " is for ", m.target,
                 ", others for ", target_);
  target_ = m.target;
  for (const std::string& name : m.names) {
    const std::string host_name = as_the_host_spells(name);
    const bool is_new = by_name_.emplace(host_name, &made).second;
    LLAMA4RT_CHECK(kInternal, is_new, path, ": kernel ", name, " stands in another file, too");
    spelled_[host_name] = name;
  }
}

Library::Changed::Changed(Library& library, std::string file, const Change& change)
    : library_(library), file_(std::move(file)) {
  LLAMA4RT_CHECK(kInternal, library_.modules_.contains(file_), "no file ", file_, ".ptx");
  try {
    library_.read(file_, change);
  } catch (...) {  // no destructor will run
    library_.read(file_, unchanged);
    throw;
  }
}
Library::Changed::~Changed() { library_.read(file_, unchanged); }

std::shared_ptr<const Program> Library::program(const std::string& name) {
  std::shared_ptr<const Program>& p = programs_[name];
  if (p) return p;
  const auto it = by_name_.find(name);
  LLAMA4RT_CHECK(kInternal, it != by_name_.end(), "no PTX of kernel ", name, " in ", folder_);
  ever_used_.insert(name);
  return p = std::make_shared<Program>(decode(it->second->module(), it->second->entry(spelled_[name])));
}

std::vector<std::string> Library::names() const {
  std::vector<std::string> all;
  for (const auto& [name, module] : by_name_) all.push_back(name);
  return all;
}

}  // namespace llama4rt::ptx_executor
