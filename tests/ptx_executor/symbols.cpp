#include "ptx_executor/symbols.h"

#include <elf.h>
#include <link.h>

#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <vector>

#include "base/error.h"

namespace llama4rt::ptx_executor {
namespace {

using Names = std::multimap<uint64_t, std::string>;  // by address

template <class T>
T read_at(const std::vector<char>& bytes, uint64_t at) {
  LLAMA4RT_CHECK(kInternal, at + sizeof(T) <= bytes.size(), "the program's own file is cut short");
  T value;
  std::memcpy(&value, &bytes[at], sizeof value);
  return value;
}

uint64_t load_address() {
  uint64_t bias = 0;
  const auto first = [](dl_phdr_info* info, size_t, void* out) {
    *static_cast<uint64_t*>(out) = info->dlpi_addr;
    return 1;  // the program itself comes first
  };
  dl_iterate_phdr(first, &bias);
  return bias;
}

// Functions of the symbol table, also those of internal linkage.
Names own_functions() {
  std::ifstream in("/proc/self/exe", std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const auto header = read_at<Elf64_Ehdr>(bytes, 0);
  const auto section = [&](uint64_t i) {
    return read_at<Elf64_Shdr>(bytes, header.e_shoff + i * sizeof(Elf64_Shdr));
  };
  const uint64_t bias = load_address();
  Names names;
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    const Elf64_Shdr table = section(i);
    if (table.sh_type != SHT_SYMTAB) continue;
    const Elf64_Shdr strings = section(table.sh_link);
    for (uint64_t at = 0; at < table.sh_size; at += sizeof(Elf64_Sym)) {
      const auto symbol = read_at<Elf64_Sym>(bytes, table.sh_offset + at);
      if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_value != 0)
        names.emplace(symbol.st_value + bias, &bytes[strings.sh_offset + symbol.st_name]);
    }
  }
  LLAMA4RT_CHECK(kInternal, !names.empty(), "this program has no symbol table; it must not be stripped");
  return names;
}

}  // namespace

const std::string& name_of_function(const void* address) {
  static const Names names = own_functions();
  const auto [begin, end] = names.equal_range(reinterpret_cast<uint64_t>(address));
  LLAMA4RT_CHECK(kInternal, begin != end, "no function stands at ", address);
  for (auto it = begin; it != end; ++it)
    LLAMA4RT_CHECK(kInternal, it->second == begin->second, it->second, " and ", begin->second,
                   " have become one function; link without folding");
  return begin->second;
}

std::string as_the_host_spells(std::string name) {
  const std::string mark = "_GLOBAL__N_";
  for (size_t at = name.find(mark); at != std::string::npos; at = name.find(mark, at + mark.size())) {
    size_t digits = at;
    while (digits > 0 && std::isdigit(static_cast<unsigned char>(name[digits - 1])) != 0) --digits;
    if (digits == at) continue;
    const size_t length = size_t(std::stoul(name.substr(digits, at - digits)));
    name.replace(digits, at - digits + length, "12_GLOBAL__N_1");
    at = digits + 2;
  }
  return name;
}

}  // namespace llama4rt::ptx_executor
