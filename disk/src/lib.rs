//! Files that survive a crash: written durably, in folders of their owner, under locks.
