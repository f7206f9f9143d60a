//! What a run leaves for its page: facts of it, its last picture, and the page itself.

use super::run_dir::RunDir;
use super::session::Session;
use crate::Result;
use crate::log::{HELD_OUT, Messages, Picture, RunFacts, write_run};
use crate::nn::Network;

/// Writes the picture of the held-out imagery. The run has ended well, with it or without.
pub(super) fn keep_picture(picture: Result<Option<Picture>>, folder: &RunDir, messages: &Messages) {
    let written = picture.and_then(|picture| picture.map_or(Ok(()), |p| p.write_png(&folder.join(HELD_OUT))));
    if let Err(e) = written {
        messages.warn(&format!("no picture of the held-out imagery: {e}"));
    }
}

/// Changes the facts that a run leaves. It goes on without them where they cannot be written.
pub(super) fn keep_facts(folder: &RunDir, messages: &Messages, change: impl FnOnce(&mut RunFacts)) {
    if !folder.is_written_here() {
        return;
    }
    let mut facts = RunFacts::load(folder.path()).unwrap_or_default();
    change(&mut facts);
    if let Err(e) = facts.write(folder.path()) {
        messages.warn(&format!("what is known of the run is not kept for its page: {e}"));
    }
}

/// Where and on what a session runs.
pub(super) fn facts_of(session: &Session) -> RunFacts {
    let [generator_parameters, discriminator_parameters] =
        Network::ALL.map(|network| session.programs().layout(network).param_count());
    RunFacts {
        device: session.device().describe(),
        precision: session.precision().to_string(),
        generator_parameters,
        discriminator_parameters,
        ..RunFacts::now()
    }
}

/// Writes the run's page for the last time.
pub(super) fn write_page(folder: &RunDir, messages: &Messages) {
    if !folder.is_written_here() {
        return;
    }
    if let Err(e) = write_run(folder.path()) {
        messages.warn(&format!("the run's page is not brought up to date: {e}"));
    }
}
