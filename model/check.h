// CHECK: for our own mistakes, never for a caller's. Prints both values and stops the process; no
// request can reach one. Used everywhere; depends on nothing.
#pragma once

#include <cstdlib>
#include <iostream>

namespace tuppence::internal {

template <typename A, typename B>
[[noreturn]] void CheckFailed(const char* file, int line, const char* text, const A& a,
                              const B& b) {
  std::cerr << file << ":" << line << ": CHECK failed: " << text << " (" << a << " and " << b << ")"
            << std::endl;
  std::abort();
}

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* text) {
  std::cerr << file << ":" << line << ": CHECK failed: " << text << std::endl;
  std::abort();
}

}  // namespace tuppence::internal

#define CHECK(condition) \
  ((condition) ? (void)0 : ::tuppence::internal::CheckFailed(__FILE__, __LINE__, #condition))

#define TUPPENCE_CHECK_OP(a, op, b)                                                               \
  do {                                                                                            \
    const auto& check_a = (a);                                                                    \
    const auto& check_b = (b);                                                                    \
    if (!(check_a op check_b)) {                                                                  \
      ::tuppence::internal::CheckFailed(__FILE__, __LINE__, #a " " #op " " #b, check_a, check_b); \
    }                                                                                             \
  } while (false)

#define CHECK_EQ(a, b) TUPPENCE_CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) TUPPENCE_CHECK_OP(a, !=, b)
#define CHECK_LT(a, b) TUPPENCE_CHECK_OP(a, <, b)
#define CHECK_LE(a, b) TUPPENCE_CHECK_OP(a, <=, b)
#define CHECK_GT(a, b) TUPPENCE_CHECK_OP(a, >, b)
#define CHECK_GE(a, b) TUPPENCE_CHECK_OP(a, >=, b)
