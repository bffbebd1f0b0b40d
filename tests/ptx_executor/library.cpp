#include "ptx_executor/library.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "ptx_executor/symbols.h"

namespace llama4rt::ptx_executor {

Library::Library(const std::string& folder) : folder_(folder) {
  change_text([](const std::string& text) { return text; });
}

void Library::change_text(const Change& change) {
  modules_.clear();
  by_name_.clear();
  spelled_.clear();
  programs_.clear();
  std::vector<std::string> paths;
  if (std::filesystem::is_directory(folder_))
    for (const auto& file : std::filesystem::directory_iterator(folder_))
      if (file.path().extension() == ".ptx") paths.push_back(file.path());
  LLAMA4RT_CHECK(kInternal, !paths.empty(), "no *.ptx in '", folder_, "'; scripts/ptx_compile.py makes them");
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) read(path, change);
}

void Library::read(const std::string& path, const Change& change) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  modules_.push_back(
      std::make_unique<ModuleText>(std::filesystem::path(path).filename().string(), change(text)));
  const Module& m = modules_.back()->module();
  LLAMA4RT_CHECK(kInternal, target_.empty() || target_ == m.target, path, " is for ", m.target,
                 ", others for ", target_);
  target_ = m.target;
  for (const std::string& name : m.names) {
    const std::string host_name = as_the_host_spells(name);
    const bool is_new = by_name_.emplace(host_name, modules_.back().get()).second;
    LLAMA4RT_CHECK(kInternal, is_new, path, ": kernel ", name, " stands in another file, too");
    spelled_[host_name] = name;
  }
}

std::shared_ptr<const Program> Library::program(const std::string& name) {
  std::shared_ptr<const Program>& p = programs_[name];
  if (p) return p;
  const auto it = by_name_.find(name);
  LLAMA4RT_CHECK(kInternal, it != by_name_.end(), "no PTX of kernel ", name, " in ", folder_);
  return p = std::make_shared<Program>(decode(it->second->module(), it->second->entry(spelled_[name])));
}

std::vector<std::string> Library::names() const {
  std::vector<std::string> all;
  for (const auto& [name, module] : by_name_) all.push_back(name);
  return all;
}

std::vector<std::string> Library::used() const {
  std::vector<std::string> all;
  for (const auto& [name, program] : programs_)
    if (program) all.push_back(name);
  return all;
}

}  // namespace llama4rt::ptx_executor
