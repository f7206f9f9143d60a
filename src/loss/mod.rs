//! The losses of training, written on a tape: the generator's [`content`](fn@content) loss, the [`Adversarial`]
//! objectives of both networks, and the discriminator's [R1 penalty](r1_penalty).

mod adversarial;
mod content;
#[cfg(test)]
mod tests;

pub use adversarial::{Adversarial, discriminator_loss, generator_loss, probabilities, r1_penalty};
pub use content::{ContentTerms, Images, TERMS, Term, TermOp, content, image_components};
