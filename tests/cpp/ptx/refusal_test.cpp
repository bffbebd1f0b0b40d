// What the executor does not know it refuses when a kernel is loaded, by name, and all of it at once.
#include "ptx/snippet.h"
#include "ptx_executor/forms.h"

namespace llama4rt::test {
namespace {

std::string refusal(const std::string& statement) {
  return report_of([&] {
    compile_snippet(
        {.body = statement, .module = ".shared .align 16 .b8 here[64];\n", .in = {}, .bounds = {}});
  });
}

}  // namespace

TEST(opcodes_and_modifiers_are_refused_by_name) {
  for (const char* statement :
       {"add.sat.s32 %r2, %r1, 1;",
        "add.ftz.f32 %f1, %f2, %f3;",
        "fma.rz.f32 %f1, %f2, %f3, %f4;",
        "ld.global.nc.u32 %r2, [%rd1];",
        "ld.volatile.shared.u32 %r2, [here];",
        "ld.u32 %r2, [%rd1];",
        "st.global.L1::no_allocate.u32 [%rd2], %r1;",
        "ex2.approx.ftz.f32 %f1, %f2;",
        "cp.async.ca.shared.global [%r1], [%rd1], 4;",
        "cp.async.wait_all;",
        "bar.red.popc.u32 %r2, 0, %p1;",
        "barrier.sync 0;",
        "mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r1], 0;",
        "fence.sc.gpu;",
        "atom.global.add.u32 %r2, [%rd1], 1;",
        "red.global.add.u32 [%rd1], 1;",
        "cp.async.bulk.wait_group.read 0;",
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r1}, {%f1};",
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {%f1}, %rd1, %rd1, %p1, 1, 1, 0, 0;",
        "shfl.sync.idx.b64 %rd3, %rd1, 0, 31, -1;",
        "vote.sync.all.pred %p1, %p2, -1;",
        "call foo;",
        "brx.idx %r1, T;",
        "nanosleep.u32 100;",
        "movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1;",
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r2, %r3}, [%r1];",
        "setp.lt.and.s32 %p1, %r1, 1, %p2;",
        "cvt.rn.bf16.f32 %rs1, %f1;",
        "cvt.rni.s32.f32 %r2, %f1;",
        "prefetch.global.L2 [%rd1];",
        "isspacep.shared %p1, %rd1;",
        "cvta.u64 %rd3, %rd1;"}) {
    const std::string text = statement, opcode = text.substr(0, text.find(' '));
    SCOPE(statement);
    CHECK(contains(refusal(statement), "this instruction is not modelled"));
    CHECK(contains(refusal(statement), opcode.substr(0, opcode.find(';'))));
    CHECK(ptx_executor::forms().find(opcode) == nullptr);
  }
}

TEST(operands_and_immediates_are_refused) {
  const std::pair<const char*, const char*> cases[] = {
      {"add.s32 %r2, %r1;", "expected 3 operands, found 2"},
      {"add.s32 %r2, %r1, %rd1;", "register %rd1 of 64 bits"},
      {"add.s32 %r2, %f1, %r1;", "register %f1 of 32 bits does not fit"},
      {"add.s32 %r2, %r1, 4294967296;", "has more than 32 bits"},
      {"and.b16 %rs1, %rs2, 65536;", "has more than 16 bits"},
      {"add.s32 %r2, %r1, 0f3F800000;", "expected a register or an integer"},
      {"add.f32 %f1, %f2, 1;", "expected a register or a float"},
      {"add.f32 %f1, %f2, 0d3FF0000000000000;", "expected a register or a float"},
      {"add.s32 1, %r1, %r1;", "expected a register"},
      {"mov.u32 %r2, %tid.y;", "special register %tid.y is not modelled"},
      {"mov.u32 %r2, %laneid;", "special register %laneid is not modelled"},
      {"mov.u32 %r2, nowhere;", "nowhere is no variable"},
      {"ld.global.u32 %r2, [here];", "no variables in global memory"},
      {"ld.param.u32 %r2, [here];", "is not a variable of this space"},
      {"ld.shared.u32 %r2, [p_in];", "is not a variable of this space"},
      {"ld.global.u32 %r2, [%r1];", "is no address of this space"},
      {"ld.global.v2.u32 {%r2, %r3, %r4}, [%rd1];", "must be a vector of 2"},
      {"ld.global.v2.u32 %r2, [%rd1];", "must be a vector of 2"},
      {"ld.global.u32 %rs1, [%rd1];", "register %rs1 of 16 bits"},
      {"ld.global.v2.u8 {%rs1, %r2}, [%rd1];", "registers of different widths"},
      {"bra NOWHERE;", "no such label"},
      {"lop3.b32 %r2, %r1, %r1, %r1, 256;", "a table has 8 bits"},
      {"lop3.b32 %r2, %r1, %r1, %r1, %r1;", "must be an integer"},
      {"cp.async.cg.shared.global.L2::128B [%r1], [%rd1], 8, %r1;", "operand 2 is 8; only 16 is modelled"},
      {"cp.async.wait_group -1;", "a negative number of groups"},
      {"cp.async.wait_group %r1;", "must be an integer"},
      {"shfl.sync.bfly.b32 %r2, %r1, 1, 31, 65535;", "must be all of them"},
      {"mbarrier.arrive.shared::cta.b64 %rd3, [%r1];", "the state of an arrival is not modelled"},
      {"mbarrier.init.shared::cta.b64 [%rd1], 1;", "of 64 bits"},
      {"setmaxnreg.dec.sync.aligned.u32 20;", "registers are 24 to 256"},
      {"setmaxnreg.dec.sync.aligned.u32 40;", "without a bound on its blocks"},
      {"wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3}, %rd1, %rd1, %p1, 1, 1, 0, 0;",
       "must be a vector of 4"},
      {"cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r1}], "
       "[%r1];",
       "expected two coordinates"},
      {"mov.b32 {%rs1, %rs2, %rs3}, %r1;", "so many parts are not modelled"},
      {"ret 1;", "expected 0 operands"}};
  for (const auto& [statement, why] : cases) {
    SCOPE(statement);
    CHECK(contains(refusal(statement), why));
    CHECK(contains(refusal(statement), "snippet.ptx:"));
  }
  const std::string both = refusal("add.sat.s32 %r2, %r1, 1;\nfence.sc.gpu;");
  CHECK(contains(both, "add.sat.s32") && contains(both, "fence.sc.gpu"));
}

TEST(code_for_another_architecture_traps) {
  CHECK(contains(report_of(Snippet{.body = "trap;", .in = {}, .bounds = {}}),
                 "trap: the code for another architecture"));
}

// As kernels are that another architecture has no use for.
TEST(a_kernel_without_registers_has_special_ones) {
  const ptx_executor::ModuleText module(
      "x.ptx", ".version 9.0\n.target sm_80\n.address_size 64\n.entry nothing() { ret; }\n");
  const ptx_executor::Program program = decode(module.module(), module.entry("nothing"));
  for (const auto& [name, unit] : program.specials) {
    CHECK(program.place[unit] + 2 <= program.place_units);
    for (const auto& [other, other_unit] : program.specials)
      CHECK(name == other || program.place[unit] != program.place[other_unit]);
  }
}

TEST(text_that_is_no_ptx_is_refused) {
  const auto module = [](const std::string& text) {
    return report_of([&] {
      ptx_executor::ModuleText("x.ptx", ".version 9.0\n.target sm_90a\n.address_size 64\n" + text);
    });
  };
  CHECK(contains(module(".func foo() { ret; }\n"), "x.ptx:4: '.func' outside of kernels is refused"));
  CHECK(contains(module(".global .u32 x;\n"), "'.global' outside of kernels"));
  CHECK(contains(module(".entry a() { ret; }\n.entry a() { ret; }\n"), "kernel a stands twice"));
  CHECK(contains(module(".entry a() {\n ret;\n"), "a block without end"));
  CHECK(contains(module("/* no end"), "a comment without end"));
  const std::pair<const char*, const char*> bodies[] = {
      {".local .b8 x[8];", "'.local' is not an instruction"},
      {"A: A: ret;", "label A stands twice"},
      {".reg .b32 %r1;", "declared twice"},
      {".reg .b128 %q;", "'.b128' is not the type of a register"},
      {"add.s32 %r2, %r1, 010;", "octal numbers are refused"},
      {"add.s32 %r2, %r1, 0x;", "is not a number"},
      {"mov.f32 %f1, 0f3F;", "is not a float"},
      {"@nobody ret;", "guards a statement and is no register"},
      {"add.s32 %r2 %r1;", "expected ';'"},
      {"ld.global.u32 %r2, [%rd1+4;", "expected ']'"}};
  for (const auto& [body, why] : bodies) {
    SCOPE(body);
    CHECK(contains(refusal(body), why));
  }
  CHECK(contains(report_of([] { compile_snippet({.body = "ret;", .in = {}, .bounds = ".maxnreg 32\n"}); }),
                 "directive '.maxnreg'"));
}

}  // namespace llama4rt::test
