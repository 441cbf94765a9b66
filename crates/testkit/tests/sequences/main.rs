//! State sequences: whatever a program hears, in whatever order, with whatever detours, repetitions and restarts, what it has in the
//! kernel is what the present facts ask for, and every step on the way is one that a kernel takes.

mod fields;
mod publishing;
mod scenes;
mod tellings;
mod together;
