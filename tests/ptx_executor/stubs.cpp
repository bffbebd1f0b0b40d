#include "ptx_executor/block.h"
#include "ptx_executor/forms.h"
namespace llama4rt::ptx_executor {
void add_copy_forms(Forms&) {}
void add_mbarrier_forms(Forms&) {}
void add_bulk_forms(Forms&) {}
void add_matrix_forms(Forms&) {}
void add_wgmma_forms(Forms&) {}
bool is_in_flight(const Warp&, Unit) { return false; }
void check_wgmma_done(const Warp&) {}
struct WgmmaState {};
}  // namespace llama4rt::ptx_executor
