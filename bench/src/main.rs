//! The load harness of stockd: see `stockd-bench --help` and `bench/README.md`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use stockd_bench::args::{Args, Settings};
use stockd_bench::report::Report;
use stockd_bench::run::run;

/// The run could not be made.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match measure(Args::parse()) {
        Ok(report) if report.passed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("stockd-bench: {message}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn measure(args: Args) -> Result<Report, String> {
    let threads = args.threads as usize;
    let json = args.json.clone();
    let settings = Settings::new(args)?;
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let builder = if threads > 1 { builder.worker_threads(threads) } else { &mut builder };
    let runtime = builder.enable_all().build().map_err(|error| error.to_string())?;
    let report = runtime.block_on(run(&settings)).map_err(|error| error.to_string())?;
    match json {
        Some(path) if path.as_os_str() == "-" => {
            eprint!("{report}");
            println!("{}", report.json());
        }
        Some(path) => {
            print!("{report}");
            std::fs::write(&path, format!("{}\n", report.json()))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        None => print!("{report}"),
    }
    Ok(report)
}
