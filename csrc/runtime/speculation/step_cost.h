// StepCost: how long a step of decoding takes, by how many rows. The shape is a count: bytes that are read once
// however many rows there are (weights; keys and values of each sequence; the experts that at least one row chose),
// and multiplications of every row. What a byte and a multiplication cost on this machine is learnt from the steps
// that have been taken.
#pragma once

#include <array>
#include <cstdint>

namespace llama4rt {

// Of one model. Bytes and multiplications of keys and values are those of one token of context, of both layer groups.
struct StepWork {
  double shared_bytes = 0;       // weights that every row multiplies, the output head included
  double expert_bytes = 0;       // of all routed experts
  double num_experts = 1;        // E of a layer; 1: there are none
  double experts_per_token = 1;  // K
  double row_macs = 0;           // multiply-adds of a row with weights
  double kv_bytes = 0, kv_macs = 0;
  double local_share = 0;    // of these two: layers that see no more than ...
  double local_context = 0;  // ... so many tokens
};

// A step: its sequences, rows (a sequence has one, and one for each guess) and the tokens of all contexts together.
struct StepRowsOf {
  int sequences = 0;
  int rows = 0;
  double context = 0;  // of all sequences
};

class StepCost {
 public:
  explicit StepCost(const StepWork& work) : work_(work) {}

  // Seconds that such a step takes.
  double seconds(const StepRowsOf& step) const;
  // Whether steps without guesses have been seen: before that, what guesses cost cannot be told apart.
  bool knows_plain_steps() const;
  // Such a step took so long.
  void observe(const StepRowsOf& step, double seconds);

  double bytes(const StepRowsOf& step) const;
  double guess_macs(const StepRowsOf& step) const;  // of the rows beyond one of each sequence

 private:
  static constexpr int kSizes = 6;  // 1, 2..3, 4..7, 8..15, 16..31, more
  static int size_class(int n);
  double byte_seconds(int sequences) const;
  double mac_seconds(int guesses) const;
  double first_mac_seconds() const;

  struct Learnt {
    double value = 0;
    int times = 0;
    void take(double seen);
  };
  const StepWork work_;
  std::array<Learnt, kSizes> byte_;  // by sequences: seconds a byte, of steps without guesses
  std::array<Learnt, kSizes> mac_;   // by guesses: seconds a multiplication of theirs, beyond their bytes
};

}  // namespace llama4rt
