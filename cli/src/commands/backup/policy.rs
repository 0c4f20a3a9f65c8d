//! `vellum backup policy`: retention rules that a repository keeps.

use std::collections::BTreeSet;
use std::io;

use clap::Subcommand;
use serde::Serialize;
use vellum_backup::journal::State;
use vellum_backup::policy::set_policies;
use vellum_backup::record::{Policy, PolicyScope};
use vellum_core::name::Name;
use vellum_core::retention::RetentionRules;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::Render;
use crate::output::page::TextPage;
use crate::output::table::Column;
use crate::repository::{self, AccessArgs, address, opening, repo_args};
use crate::retention_args::KeepArgs;

/// Keep retention rules in a repository, for `backup forget --policy`
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup policy set /mnt/backup --keep-daily 7 --keep-weekly 4
  vellum backup policy set /mnt/backup db --keep-daily 30
  vellum backup policy list /mnt/backup
  vellum backup forget /mnt/backup --policy

A point obeys its image's policy; if there is none, those of its tags (it stays if one keeps it); \
else its host's; else the repository's. A point without any stays.")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: PolicyVerb,
}

#[derive(Subcommand)]
enum PolicyVerb {
    #[command(visible_alias = "ls")]
    List(PolicyListArgs),
    Set(PolicySetArgs),
    #[command(visible_alias = "rm")]
    Remove(PolicyRemoveArgs),
}

/// List the policies
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum backup policy list /mnt/backup")]
struct PolicyListArgs {
    /// The repository
    #[arg(value_name = "REPO")]
    words: Vec<String>,
    #[command(flatten)]
    access: AccessArgs,
}

/// Set the policy of images, of a tag, of a host, or of the whole repository
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup policy set /mnt/backup --keep-daily 7 --keep-weekly 4
  vellum backup policy set /mnt/backup --tag gold --keep-monthly unlimited

It takes the place of the one that was there. Nothing is forgotten before `backup forget \
--policy`.")]
struct PolicySetArgs {
    #[command(flatten)]
    scope: PolicyScopeArgs,
    #[command(flatten)]
    keep: KeepArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// Remove the policy of images, of a tag, of a host, or of the whole repository
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum backup policy remove /mnt/backup --tag gold")]
struct PolicyRemoveArgs {
    #[command(flatten)]
    scope: PolicyScopeArgs,
    #[command(flatten)]
    access: AccessArgs,
}

/// The points that a policy is for.
#[derive(clap::Args)]
struct PolicyScopeArgs {
    /// The repository, and the images that it is for
    #[arg(value_name = "REPO] [IMAGE")]
    words: Vec<String>,
    /// For points with this tag
    #[arg(long, value_name = "TAG", value_parser = lookup::parse_name, conflicts_with = "host")]
    tag: Option<Name>,
    /// For points of this machine
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

/// A policy as answers describe it.
#[derive(Serialize)]
struct ShownPolicy {
    /// `image`, `tag`, `host` or `repository`.
    scope: &'static str,
    /// The image's identity, the tag or the host.
    of: Option<String>,
    /// The same, for people: the image's name.
    name: Option<String>,
    /// The rules, as options of `backup forget`.
    options: Vec<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct PolicyListing {
    policies: Vec<ShownPolicy>,
}

#[derive(Serialize)]
struct PolicyChange {
    action: &'static str,
    policies: Vec<ShownPolicy>,
}

pub(super) fn run_backup_policy(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    match &args.verb {
        PolicyVerb::List(args) => list_policies(args, session),
        PolicyVerb::Set(args) => {
            let rules = args.keep.retention_rules(repository::now_ms())?;
            if rules.is_empty() {
                return Err(CommandFailure::usage_error(
                    "no rule says what is to be kept",
                    "add --keep-… rules; `backup policy remove` takes a policy away",
                ));
            }
            change_policies(&args.scope, &args.access, &rules, "policy set", session)
        }
        PolicyVerb::Remove(args) => {
            let none = RetentionRules::default();
            change_policies(&args.scope, &args.access, &none, "policy remove", session)
        }
    }
}

fn list_policies(
    args: &PolicyListArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let place = repo_args::repository_and_words(&args.words, &[], &session.caller)?.place;
    let state = opening::open_repository(&place, &args.access, session)?.state();
    let policies = state.policies();
    let policies = policies
        .map(|policy| ShownPolicy::from_policy(policy, &state))
        .collect();
    session.output.print_answer(&PolicyListing { policies })?;
    Ok(Outcome::Done)
}

fn change_policies(
    scope: &PolicyScopeArgs,
    access: &AccessArgs,
    rules: &RetentionRules,
    action: &'static str,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::at_least(&scope.words, &session.caller)?;
    let repository = opening::open_repository(&named.place, access, session)?;
    let state = repository.state();
    let scopes = scope.scopes(named.rest, &state)?;
    if rules.is_empty() {
        refuse_unknown(&scopes, &state)?;
    }
    let policies: Vec<Policy> = scopes
        .into_iter()
        .map(|scope| Policy::new(scope, rules))
        .collect();
    let shown = policies
        .iter()
        .map(|policy| ShownPolicy::from_policy(policy, &state))
        .collect();
    set_policies(&repository, policies, opening::writer_name(session))?;
    session.output.print_confirmation(&PolicyChange {
        action,
        policies: shown,
    })?;
    Ok(Outcome::Done)
}

fn refuse_unknown(scopes: &BTreeSet<PolicyScope>, state: &State) -> Result<(), CommandFailure> {
    let is_there = |scope: &PolicyScope| state.policies().any(|policy| policy.scope == *scope);
    match scopes.iter().find(|scope| !is_there(scope)) {
        Some(scope) => Err(CommandFailure::with_hint(
            format!("there is no policy {scope}"),
            "vellum backup policy list REPO shows those that are there",
        )),
        None => Ok(()),
    }
}

impl PolicyScopeArgs {
    /// The scopes that are meant: of each image, or the one that an option names.
    fn scopes(
        &self,
        images: &[String],
        state: &State,
    ) -> Result<BTreeSet<PolicyScope>, CommandFailure> {
        if images.is_empty() {
            return Ok(BTreeSet::from([PolicyScope {
                image: None,
                tag: self.tag.as_ref().map(ToString::to_string),
                host: self.host.clone(),
            }]));
        }
        if self.tag.is_some() || self.host.is_some() {
            return Err(CommandFailure::usage_error(
                "a policy is for images, for a tag or for a host",
                "name one of the three, and set several policies",
            ));
        }
        let points = address::sort_points(state);
        let mut scopes = BTreeSet::new();
        for image in images {
            let found = address::of_whole_image(&points, image)?;
            scopes.extend(found.into_iter().map(|point| PolicyScope {
                image: Some(point.image.clone()),
                ..PolicyScope::default()
            }));
        }
        Ok(scopes)
    }
}

impl ShownPolicy {
    fn from_policy(policy: &Policy, state: &State) -> Self {
        let scope = &policy.scope;
        let (kind, of) = match (&scope.image, &scope.tag, &scope.host) {
            (Some(image), ..) => ("image", Some(image)),
            (_, Some(tag), _) => ("tag", Some(tag)),
            (.., Some(host)) => ("host", Some(host)),
            _ => ("repository", None),
        };
        let of_image = |image: &String| {
            let mut points = state.points_oldest_first().into_iter().rev();
            let newest = points.find(|point| point.image == *image);
            newest.map_or_else(|| image.clone(), |point| point.name.clone())
        };
        let name = scope.image.as_ref().map(of_image).or_else(|| of.cloned());
        let rules = policy.keep.iter();
        let rules = rules.map(|(rule, text)| format!("--keep-{rule} {text}"));
        let tags = policy.keep_tags.iter();
        let tags = tags.map(|list| format!("--keep-tag '{}'", list.join(",")));
        Self {
            scope: kind,
            of: of.cloned(),
            name,
            options: rules.chain(tags).collect(),
        }
    }

    /// The scope in words.
    fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("{} {name}", self.scope),
            None => self.scope.to_owned(),
        }
    }
}

impl Render for PolicyListing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        if self.policies.is_empty() {
            return page.write_line("no policies");
        }
        let columns = [Column::text_column("FOR"), Column::text_column("KEEPS")];
        let row = |policy: &ShownPolicy| vec![policy.title(), policy.options.join(" ")];
        let rows: Vec<_> = self.policies.iter().map(row).collect();
        page.write_table(&columns, &rows)
    }
}

impl Render for PolicyChange {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        for policy in &self.policies {
            let title = policy.title();
            page.write_line(if policy.options.is_empty() {
                format!("{title} has no policy of its own any more")
            } else {
                format!("{title} keeps {}", policy.options.join(" "))
            })?;
        }
        if self.action == "policy remove" {
            return Ok(());
        }
        page.write_line("next: vellum backup forget --policy -n shows what would go")
    }
}
