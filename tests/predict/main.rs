//! Maps of small scenes by untrained networks, and evaluations of such networks: no seams, the right values and masks, the same bytes however they are made,
//! and what is refused.

mod common;
mod embedded;
mod evaluate;
mod export;
mod files;
mod precisions;
mod refusals;
mod resume;
mod seams;
mod tools;
mod values;
