//! `vellum completions`: what a shell needs to complete command lines.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum completions bash > ~/.local/share/bash-completion/completions/vellum

With bash, zsh and fish the names of images, snapshots and machines are completed, too, unless \
they have blanks or characters that mean something to a shell.")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run_completions(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    // The generator panics when its writer fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "vellum", &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = complete_names_too(&script, args.shell);
    session.output.print_verbatim(script.as_bytes())?;
    Ok(Outcome::Done)
}

/// For bash `@` and `=` end a word, so it replaces only what follows them.
const BASH_NAMES: &str = r#"
_vellum_names() {
    _vellum "$@"
    [[ "$2" == -* ]] && return
    local line="${COMP_LINE:0:COMP_POINT}" words names
    read -ra words <<< "$line"
    [[ "$line" == *[[:blank:]] ]] && words+=("")
    mapfile -t names < <("$1" complete-names -- "${words[@]:1}" 2>/dev/null)
    local typed="${words[-1]}"
    (( ${#names[@]} )) && COMPREPLY=("${names[@]#"${typed%"$2"}"}")
}
"#;

const ZSH_NAMES: &str = r#"
_vellum_names() {
    local -a line names
    line=(${(z)LBUFFER})
    [[ "$LBUFFER" == *[[:blank:]] ]] && line+=("")
    line=("${(@)line[${line[(I)(*/|)vellum]},-1]}")
    names=(${(f)"$("${(@Q)line[1]}" complete-names -- "${(@Q)line[2,-1]}" 2>/dev/null)"})
    compadd -a names
    _default "$@"
}
"#;

const FISH_NAMES: &str = r#"
function __fish_vellum_names
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    command $words[1] complete-names -- $words[2..-1] "$last" 2>/dev/null
end
complete -c vellum -a "(__fish_vellum_names)"
"#;

/// clap's script, with the store's names: clap knows only what is always there.
fn complete_names_too(script: &str, shell: Shell) -> String {
    match shell {
        Shell::Bash => {
            let script = script.replace("complete -F _vellum ", "complete -F _vellum_names ");
            insert_before(&script, "\nif [[ \"${BASH_VERSINFO", BASH_NAMES)
        }
        Shell::Zsh => {
            let script = script.replace(":_default'", ":_vellum_names'");
            insert_before(&script, "\nif [ \"$funcstack", ZSH_NAMES)
        }
        Shell::Fish => {
            // A line that ends so is of an option with a value of which clap knows nothing.
            let asking = " -r -a \"(__fish_vellum_names)\"\n";
            format!("{}{FISH_NAMES}", script.replace(" -r\n", asking))
        }
        _ => script.to_owned(),
    }
}

/// `script` with `text` put before the last place where `mark` is.
fn insert_before(script: &str, mark: &str, text: &str) -> String {
    let at = script.rfind(mark).unwrap_or(script.len());
    format!("{}{text}{}", &script[..at], &script[at..])
}
