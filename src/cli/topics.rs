//! `tidemill topics`: makes the four topics, and compares them with the configuration.

use std::fmt::Write as _;

use clap::Subcommand;
use operators::broker::{Admin, TopicSpec};
use serde_json::json;

use super::{CliError, Context, Exit};
use crate::topics::{Difference, Made, differences, make};

/// What `tidemill topics` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the topics that are not there. Those that are stay as they are; each difference is named.
    Create(Settings),
    /// Name each difference between the topics and the configuration. Exit code 1 if there is any.
    Check(Settings),
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Settings {
    /// With production settings: `topics.production.replication` and `topics.production.min_insync_replicas`.
    #[arg(long)]
    production: bool,
}

/// Runs the command.
///
/// # Errors
///
/// If the configuration can't be used, or the broker did not answer or refused.
pub fn run(args: &Args, context: &Context) -> Result<Exit, CliError> {
    let config = context.load()?.config;
    let broker = context.surroundings().broker(&config)?;
    let mut admin = broker.admin()?;
    let (settings, creates) = match args.command {
        Command::Create(settings) => (settings, true),
        Command::Check(settings) => (settings, false),
    };
    let specs = config.topics.specs(settings.production);
    let looked_at = specs
        .into_iter()
        .map(|spec| if creates { create(&mut *admin, spec) } else { check(&mut *admin, spec) });
    let seen: Vec<Seen> = looked_at.collect::<Result<_, _>>()?;
    context.print(&if context.json { as_json(&seen) } else { as_text(&seen) })?;
    let is_as_configured = seen.iter().all(|seen| seen.differences.is_empty());
    Ok(if is_as_configured { Exit::Done } else { Exit::Failed })
}

/// A topic that was looked at.
struct Seen {
    spec: TopicSpec,
    created: bool,
    differences: Vec<Difference>,
}

fn create(admin: &mut dyn Admin, spec: TopicSpec) -> Result<Seen, CliError> {
    Ok(match make(admin, &spec)? {
        Made::Created => Seen { spec, created: true, differences: Vec::new() },
        Made::Existed(differences) => Seen { spec, created: false, differences },
    })
}

fn check(admin: &mut dyn Admin, spec: TopicSpec) -> Result<Seen, CliError> {
    let differences = differences(&spec, admin.describe(&spec.name)?.as_ref());
    Ok(Seen { spec, created: false, differences })
}

fn as_text(seen: &[Seen]) -> String {
    let mut text = String::new();
    for Seen { spec, created, differences } in seen {
        let TopicSpec { name, partitions, replication, .. } = spec;
        let state = match (created, differences.is_empty()) {
            (true, _) => format!("created ({partitions} partitions, replication {replication})"),
            (false, true) => format!("as configured ({partitions} partitions, replication {replication})"),
            (false, false) => "differs".to_owned(),
        };
        writeln!(text, "{name}: {state}").expect("a text can be written to");
        for difference in differences {
            writeln!(text, "  {difference}").expect("a text can be written to");
        }
    }
    text
}

fn as_json(seen: &[Seen]) -> String {
    let topics: Vec<_> = seen
        .iter()
        .map(|seen| json!({ "topic": seen.spec.name, "created": seen.created, "differences": seen.differences }))
        .collect();
    format!("{}\n", json!({ "topics": topics }))
}
