//! Writes the seeds of all targets, and the inputs that once broke them, as files:
//! `cargo run -p stockd-fuzz --example seeds -- DIRECTORY` makes `DIRECTORY/TARGET/NAME`.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("say into which directory"));
    };
    for target in stockd_fuzz::TARGETS {
        let own = directory.join(target.name);
        fs::create_dir_all(&own)?;
        let inputs = [(target.seeds)(), target.regressions()].concat();
        for (number, input) in inputs.iter().enumerate() {
            fs::write(own.join(format!("seed-{number:02}")), input)?;
        }
        println!("{}", target.name);
    }
    Ok(())
}
