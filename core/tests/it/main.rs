//! Guests' free space against the programs that make, fill and check file systems. The disks are
//! made here: `make packages` installs the programs, and without them the tests fail.
//!
//! Where a file system can only be filled while it is mounted, root and the kernel's driver are
//! needed; without them that part is left out, with a line that says so.

mod disks;
mod hostile;
mod logical_volumes;
mod partitioned;
mod tools;
mod trimming;
mod unclean;
