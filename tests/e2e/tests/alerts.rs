//! The rules of `packaging/prometheus`: promtool takes them and their tests, and what they ask for is what the real agent exports.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, ensure};
use e2e::{
    Stack, binary, eventually,
    foreign::{root, run, tool},
    pushes::Providers,
};
use tokio::{io::AsyncWriteExt, process::Command};

fn file(name: &str) -> PathBuf {
    root().join("packaging/prometheus").join(name)
}

fn rules() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(file("elph-agent.rules.yml"))?)
}

/// `promtool`; nothing where there is none.
fn promtool(arguments: &[&str], path: &str) -> anyhow::Result<Option<Command>> {
    let Some(program) = tool("bin/promtool")? else { return Ok(None) };
    let mut command = Command::new(program);
    command.args(arguments).arg(file(path));
    Ok(Some(command))
}

#[tokio::test]
async fn promtool_takes_the_rules() -> anyhow::Result<()> {
    let Some(command) = promtool(&["check", "rules", "--lint=all", "--lint-fatal"], "elph-agent.rules.yml")? else { return Ok(()) };
    run(command).await?;
    Ok(())
}

#[tokio::test]
async fn promtool_takes_the_example_of_a_configuration() -> anyhow::Result<()> {
    let Some(command) = promtool(&["check", "config", "--lint-fatal"], "prometheus.example.yml")? else { return Ok(()) };
    run(command).await?;
    Ok(())
}

#[tokio::test]
async fn every_alert_fires_when_it_should_and_only_then() -> anyhow::Result<()> {
    let Some(command) = promtool(&["test", "rules"], "elph-agent.rules.test.yml")? else { return Ok(()) };
    run(command).await?;
    Ok(())
}

#[test]
fn every_alert_has_a_severity_a_summary_a_description_and_a_test_in_which_it_fires() -> anyhow::Result<()> {
    let (rules, tests) = (rules()?, std::fs::read_to_string(file("elph-agent.rules.test.yml"))?);
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    ensure!(alerts.len() > 20, "{} alerts", alerts.len());
    let mut names = BTreeSet::new();
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default();
        ensure!(names.insert(name), "{name} is there twice");
        let severity = ["critical", "warning"].into_iter().find(|it| alert.contains(&format!("labels: {{severity: {it}}}")));
        let severity = severity.with_context(|| format!("{name}: no severity"))?;
        ensure!(alert.contains("summary: ") && alert.contains("description: "), "{name}: no text");
        ensure!(tests.contains(&format!("{{alertname=\"{name}\", severity=\"{severity}\"}}")), "{name}: no test in which it fires");
    }
    Ok(())
}

#[test]
fn limits_in_the_rules_are_those_of_the_unit_and_of_the_configuration_s_defaults() -> anyhow::Result<()> {
    let rules = rules()?;
    let unit = std::fs::read_to_string(root().join("packaging/systemd/elph-agent.service"))?;
    let of_unit = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("the unit has no {key}"));
    let high = of_unit("MemoryHigh=")?.strip_suffix('M').context("MemoryHigh is not in M")?;
    ensure!(rules.contains(&format!("> 0.85 * ({high} * 1024 * 1024)")), "MemoryHigh is {high}M");
    let files = of_unit("LimitNOFILE=")?;
    ensure!(rules.contains(&format!("> 0.8 * {files}\n")), "LimitNOFILE is {files}");
    let schema: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(root().join("agent/config.schema.json"))?)?;
    let default =
        |key: &str| schema.pointer(&format!("/$defs/Push/properties/{key}/default")).with_context(|| format!("no default of {key}"));
    let waiting = default("max_waiting")?;
    ensure!(rules.contains(&format!("> 0.8 * {waiting}\n")), "push.max_waiting is {waiting}");
    let mut mib = 0_u64;
    for key in ["max_waiting_bytes", "log_bytes"] {
        let size = default(key)?.as_str().and_then(|size| size.strip_suffix("MiB")).with_context(|| format!("{key} is not in MiB"))?;
        mib += size.parse::<u64>()?;
    }
    ensure!(rules.contains(&format!("> 0.9 * ({mib} * 1024 * 1024)")), "waiting pushes and their history are {mib} MiB");
    Ok(())
}

// === what the agent exports ===

/// A stack in which everything that pushes have metrics for has happened, and a scrape of it.
async fn scraped() -> anyhow::Result<(Providers, Stack, String)> {
    let providers = Providers::start().await?;
    let stack = providers.stack().await?;
    let aliases = stack.sim.switch().aliases(stack.domain(), 0, 2)?;
    let [caller, called] = aliases.as_slice() else { anyhow::bail!("the switch has no two aliases") };
    stack.device(&providers, called, "ios", 1).await?;
    stack.sim.switch().dial(stack.domain(), caller, called)?;
    providers.taken("the phone rings", |all| !all.is_empty()).await?;
    let counted = |text: &str| {
        text.lines().any(|line| line.starts_with("elph_agent_pushes_total{") && line.contains("state=\"accepted\""))
            && text.contains("elph_agent_event_resyncs_total{")
    };
    eventually("the push is counted", async || stack.agent.get("/metrics").await.ok().filter(|(_, text)| counted(text))).await?;
    let (status, text) = stack.agent.get("/metrics").await?;
    ensure!(status == 200, "status {status}");
    Ok((providers, stack, text))
}

/// The labels of every name of a scrape.
fn series(scrape: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let labels = all.entry(name).or_default();
        if let Some((inside, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            labels.extend(inside.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0)));
        }
    }
    all
}

/// Names of metrics in a text, and the labels that stand in braces behind each.
fn wanted(text: &str) -> Vec<(&str, Vec<&str>)> {
    let is_name = |at: char| at.is_ascii_alphanumeric() || at == '_' || at == ':';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_name) {
        let from = rest.split_at(start).1;
        let (name, behind) = from.split_at(from.find(|at| !is_name(at)).unwrap_or(from.len()));
        rest = behind;
        // Recorded names are checked against what is recorded.
        if (name.starts_with("elph_agent_") || name.starts_with("process_") || name.contains(":elph_agent_")) && !name.ends_with(':') {
            let inside = behind.strip_prefix('{').and_then(|behind| behind.split_once('}')).map_or("", |(inside, _)| inside);
            let labels = inside.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.trim()).collect();
            found.push((name, labels));
        }
    }
    found
}

/// From OpenMetrics, which the agent speaks, to the older text format, the only one that `promtool check metrics` reads: there a counter's
/// family has the `_total` of its samples, and there are no infos, units and ends.
fn classic(scrape: &str) -> String {
    let (mut suffixes, mut text) = (BTreeMap::new(), String::new());
    for line in scrape.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            suffixes.insert(
                name,
                match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                },
            );
        }
    }
    for line in scrape.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "EOF"] | ["#", "UNIT", ..] => continue,
            ["#", word, name, rest] => {
                let kind = if (*word, *rest) == ("TYPE", "info") { "gauge" } else { rest };
                text.push_str(&format!("# {word} {name}{} {kind}\n", suffixes.get(name).unwrap_or(&"")));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[tokio::test]
async fn every_metric_and_label_that_the_rules_ask_for_is_the_agent_s() -> anyhow::Result<()> {
    let rules = rules()?;
    let listed = run({
        let mut command = Command::new(binary("elph-agent")?);
        command.arg("metrics");
        command
    })
    .await?;
    let listed: BTreeSet<&str> =
        listed.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    let recorded: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    let (_providers, stack, scrape) = scraped().await?;
    let exported = series(&scrape);
    let (mut seen, mut in_scrape) = (BTreeSet::new(), BTreeSet::new());
    for (name, labels) in wanted(&rules) {
        if name.contains(':') {
            ensure!(recorded.contains(name), "{name} is not recorded");
            continue;
        }
        let family = name.trim_end_matches("_bucket");
        ensure!(listed.contains(family), "{name}: the agent has no such metric");
        seen.insert(name);
        // Some families begin with their first fault.
        let Some(known) = exported.get(name) else { continue };
        in_scrape.insert(name);
        for label in labels.iter().filter(|label| **label != "job") {
            ensure!(known.contains(label), "{name} has the labels {known:?}, not {label}");
        }
    }
    ensure!(seen.len() > 20, "only {seen:?}");
    let absent: Vec<_> = seen.difference(&in_scrape).collect();
    ensure!(absent.len() <= 8, "not in the scrape: {absent:?}");
    stack.stop().await
}

#[tokio::test]
async fn promtool_takes_the_metrics_of_the_agent() -> anyhow::Result<()> {
    let Some(program) = tool("bin/promtool")? else { return Ok(()) };
    let (_providers, stack, scrape) = scraped().await?;
    let text = classic(&scrape);
    let mut child = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(text.as_bytes()).await?;
    drop(stdin);
    let output = tokio::time::timeout(e2e::PATIENCE, child.wait_with_output()).await.context("promtool takes too long")??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{}: {said}\n{text}", output.status);
    stack.stop().await
}
