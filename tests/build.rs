//! Builds the stand-in for libnvidia-ml that agents load in stories of GPUs.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "nvml/lib.rs";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=nvml");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("libnvidia-ml.so.1");
    let built = Command::new(env::var_os("RUSTC").ok_or("RUSTC is not set")?)
        .args(["--edition=2024", "--crate-type=cdylib", "--crate-name=fake_nvml", "-Cdebuginfo=0"])
        .args([SOURCE, "-o"])
        .arg(&out)
        .status()?;
    if !built.success() {
        return Err(format!("{SOURCE} does not compile").into());
    }
    println!("cargo:rustc-env=FAKE_NVML={}", out.display());
    Ok(())
}
