//! Prints the header: `cargo run -p srgan-header > include/srgan.h`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml"))?;
    let header = cbindgen::Builder::new().with_crate(folder).with_config(config).generate()?;
    header.write(std::io::stdout());
    Ok(())
}
