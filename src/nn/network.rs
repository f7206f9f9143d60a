//! The two networks of a run.

/// A network that is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// Makes SR from LR.
    Generator,
    /// Tells SR from HR.
    Discriminator,
}

impl Network {
    /// Both, in the order of checkpoints.
    pub const ALL: [Network; 2] = [Network::Generator, Network::Discriminator];

    /// The name that the names of its tensors begin with.
    pub const fn name(self) -> &'static str {
        match self {
            Network::Generator => "generator",
            Network::Discriminator => "discriminator",
        }
    }
}
