//! The kernel program on single packets: the rows of `lb_tests::rows` through
//! BPF_PROG_TEST_RUN, and what only the kernel can say of the program.

mod chance;
mod counters;
mod load;
mod million;
mod room;
mod rows;
mod stack;
