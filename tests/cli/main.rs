//! End to end through the program: the daily use, and everything that a user can hand it that is wrong. Each refusal has its
//! documented exit code, says what to do next, and leaves what is stored as it was.
#![cfg(all(feature = "cli", feature = "train"))]

mod adapt;
mod answers;
mod chats;
mod daily;
mod damage;
mod disks;
mod doctor;
mod endless;
mod from;
mod gpu;
mod interactions;
mod language;
mod layers;
mod lost_disk;
mod packages;
mod processes;
mod program;
mod refusals;
mod running;
mod suite;
mod templates;
mod terminal;
mod texts;
mod together;
mod tools;
mod year;
