//! Compiles `convoke/v1/*.proto` with protox: no system protoc is needed.

use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

const FILES: [&str; 4] = [
    "convoke/v1/types.proto",
    "convoke/v1/operator.proto",
    "convoke/v1/agent.proto",
    "convoke/v1/trainer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let set = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    // compile_fds does not write the descriptor set, which server reflection needs.
    fs::write(out.join("convoke_v1.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".convoke.v1")
        .compile_fds(set)?;
    println!("cargo:rerun-if-changed=convoke");
    Ok(())
}
