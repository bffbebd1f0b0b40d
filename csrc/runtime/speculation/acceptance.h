// Acceptance: how often guesses of each class of evidence turn out right, with what is older counting less. A table
// for every sequence, which starts from one of all sequences.
#pragma once

#include <array>

#include "runtime/speculation/drafter.h"

namespace llama4rt {

class Acceptance {
 public:
  // memory: guesses of a class that count; the older ones fade.
  explicit Acceptance(double memory) : keep_(1 - 1 / memory) {}

  void observe(int evidence, bool right) {
    Class& c = classes_[size_t(evidence)];
    c.tried = c.tried * keep_ + 1;
    c.right = c.right * keep_ + (right ? 1 : 0);
  }
  // The share of right ones, beside `weight` guesses of which the share `prior` was right.
  double estimate(int evidence, double prior, double weight) const {
    const Class& c = classes_[size_t(evidence)];
    return (c.right + prior * weight) / (c.tried + weight);
  }

 private:
  struct Class {
    double tried = 0, right = 0;
  };
  const double keep_;
  std::array<Class, kEvidenceClasses> classes_;
};

}  // namespace llama4rt
