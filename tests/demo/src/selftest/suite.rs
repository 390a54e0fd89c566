//! The suite through its one port: somebody signs in with the switch's password, and a call on the switch shows in what others see of them.

use std::time::Duration;

use e2e::{PATIENCE, sso::text, suite::answer};
use serde_json::Value;

use super::{Scene, call, ensure, talk};
use crate::{report::Report, seen::Missed};

const CALLER: &str = "1041";
const CALLED: &str = "1042";
const WATCHER: &str = "1043";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn play(scene: &mut Scene, report: &mut Report) -> anyhow::Result<()> {
    report.group("The suite");
    let (realm, mut browser) = scene.stage.suite().sso()?;
    let signing_in = realm.tokens(&mut browser, WATCHER, "p1043");
    let tokens = report.step("OpenID Connect: signed in with the switch's password (PKCE)", signing_in).await?;
    let rotated = async {
        let (status, next) = realm.refresh(text(&tokens, "refresh_token")?).await?;
        ensure(status == 200, "new tokens", || format!("{status} {next}"))?;
        let (status, again) = realm.refresh(text(&tokens, "refresh_token")?).await?;
        ensure(status == 400, "a used refresh token is refused", || format!("{status} {again}"))
    };
    report.step("a refresh token is good once", rotated).await?;
    let fresh = realm.tokens(&mut browser_again(scene)?, WATCHER, "p1043").await?;
    let token = text(&fresh, "access_token")?.to_owned();
    let before = until(scene, &token, "offline");
    report.step(&format!("Status Service: {CALLED} is offline"), before).await?;
    let talking = talk(scene, CALLER, CALLED);
    let id = report.step("the two talk", talking).await?;
    let shown = until(scene, &token, "in_call");
    report.step(&format!("Status Service: {CALLED} is in a call"), shown).await?;
    let over = async {
        call::release(scene, &id).await?;
        until(scene, &token, "offline").await
    };
    report.step(&format!("they hang up: {CALLED} is what they were before"), over).await
}

fn browser_again(scene: &Scene) -> anyhow::Result<e2e::sso::Browser> {
    Ok(scene.stage.suite().sso()?.1)
}

/// Waits until the service shows somebody as something.
async fn until(scene: &Scene, token: &str, state: &str) -> anyhow::Result<()> {
    let began = tokio::time::Instant::now();
    loop {
        let request = scene.stage.suite().server().request("GET", &format!("/elph_status/v1/users/{CALLED}"), Some(token))?;
        let (status, seen) = answer(request.send().await?).await?;
        if status == 200 && seen.get("state").and_then(Value::as_str) == Some(state) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(Missed { expected: state.to_owned(), seen: format!("{status} {seen}") }.into());
        }
        tokio::time::sleep(LOOK).await;
    }
}
