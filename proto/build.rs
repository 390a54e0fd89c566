//! Compiles the .proto files with protox: no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["agent", "call", "conference", "directory", "event", "push"].map(|name| format!("elph/agent/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=elph");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    // Encoded by protox itself: prost's typed descriptors would drop our own options.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("elph.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
