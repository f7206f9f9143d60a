//! Names the library as the dynamic linker finds it: programs ask for `libsrgan.so.0`, whose number changes when programs
//! have to be compiled again.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libsrgan.so.0");
        // Symbols of dependencies stay inside: a program may have another version of them.
        println!("cargo::rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
    }
}
