//! What needs no agent: the table of reasons, completions, man pages.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory};
use clap_complete::{generate, shells};
use clap_mangen::Man;
use elph_proto::reason::{Reason, code_name};
use serde_json::{Value, json};

use crate::{
    cli::{Cli, ENVIRONMENT, EXAMPLES, EXIT_CODES, Shell},
    failure::{Failure, exit_of_reason},
    output::Output,
    render::Grid,
};

/// `elphctl reasons`.
pub(crate) fn reasons(only: &[String], out: &mut Output) -> Result<(), Failure> {
    let wanted = |reason: &&Reason| only.is_empty() || only.iter().any(|name| name.eq_ignore_ascii_case(reason.as_str()));
    if let Some(unknown) = only.iter().find(|name| !Reason::ALL.iter().any(|reason| name.eq_ignore_ascii_case(reason.as_str()))) {
        return Err(Failure::NotFound(format!("there is no reason {unknown}")));
    }
    let reasons: Vec<Reason> = Reason::ALL.iter().filter(wanted).copied().collect();
    if out.json {
        let objects: Vec<Value> = reasons
            .iter()
            .map(|reason| {
                let (code, exit) = (code_name(reason.code()), exit_of_reason(*reason));
                json!({ "reason": reason.as_str(), "code": code, "exitCode": exit, "meaning": reason.meaning() })
            })
            .collect();
        return out.line(&json!({ "reasons": objects }).to_string());
    }
    let mut grid = Grid::new(&[("REASON", 0), ("STATUS", 1), ("EXIT>", 0), ("MEANING", 0)]);
    for reason in reasons {
        let exit = exit_of_reason(reason).to_string();
        grid.row(vec![reason.as_str().into(), code_name(reason.code()).into(), exit.into(), reason.meaning().into()]);
    }
    out.grid(&grid, "")
}

/// `elphctl completions`.
pub(crate) fn completions(shell: Shell, out: &mut Output) -> Result<(), Failure> {
    let mut command = Cli::command();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, "elphctl", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, "elphctl", &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, "elphctl", &mut script),
    }
    out.raw(&script)
}

/// `elphctl man`.
pub(crate) fn man(directory: Option<&Path>, out: &mut Output) -> Result<(), Failure> {
    // The sections that follow the help are sections of their own here.
    let command = Cli::command().after_help("").after_long_help("");
    // A page has no short form: options that the short help leaves out would have no text.
    let command = command.mut_args(|argument| argument.hide_short_help(false));
    let page = main_page(command.clone())?;
    let Some(directory) = directory else { return out.raw(&page) };
    let failed = |error: io::Error| Failure::Local(format!("cannot write man pages into {}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(failed)?;
    let mut command = command;
    command.build();
    command.get_subcommands().try_for_each(|command| pages(command, directory)).map_err(failed)?;
    fs::write(directory.join("elphctl.1"), page).map_err(failed)
}

/// Writes the page of a command and those of its subcommands.
fn pages(command: &Command, directory: &Path) -> io::Result<()> {
    titled(command.clone()).generate_to(directory)?;
    command.get_subcommands().try_for_each(|command| pages(command, directory))
}

fn titled(command: Command) -> Man {
    Man::new(command).manual("Elph").source(concat!("elphctl ", env!("CARGO_PKG_VERSION")))
}

fn main_page(command: Command) -> Result<Vec<u8>, Failure> {
    let man = titled(command);
    let mut page = Vec::new();
    let mut render = || -> io::Result<()> {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_subcommands_section(&mut page)?;
        man.render_options_section(&mut page)
    };
    render().map_err(|error| Failure::Local(error.to_string()))?;
    let mut text = String::new();
    let mut section = |title: &str, entries: &mut dyn Iterator<Item = (String, String)>| {
        text.push_str(&format!(".SH {title}\n"));
        for (name, meaning) in entries {
            text.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", escaped(&name), escaped(&meaning)));
        }
    };
    let owned = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
    section("EXAMPLES", &mut EXAMPLES.iter().map(owned));
    section("ENVIRONMENT", &mut ENVIRONMENT.iter().map(owned));
    let keys = "Settings (TOML): socket, server, server_name, ca, cert, key, token_file, actor, timeout, domain. \
                The command line wins over the environment, the environment over the file.";
    section("FILES", &mut [("~/.config/elphctl.toml".to_owned(), keys.to_owned())].into_iter());
    section("EXIT STATUS", &mut EXIT_CODES.iter().map(|(code, meaning)| (code.to_string(), (*meaning).to_owned())));
    page.extend_from_slice(text.as_bytes());
    Ok(page)
}

/// Text that roff takes literally.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', r"\e").replace('-', r"\-");
    if text.starts_with(['.', '\'']) { format!(r"\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
