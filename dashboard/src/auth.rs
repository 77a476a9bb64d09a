//! Who may see the dashboard: anybody, whoever knows a password (HTTP's Basic authentication), or whoever a proxy in front of it names in a header.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use tapeline_api::settings::{DASHBOARD_FOLDER, DashboardAuth};

use crate::app::App;
use crate::store::Credentials;

/// Lets a request pass, or answers it.
pub(crate) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let allowed = match &app.settings.auth {
        DashboardAuth::Anybody => Ok(()),
        DashboardAuth::Header(header) => by_header(request.headers(), &header.name, &header.users),
        DashboardAuth::Password => by_password(request.headers(), &app.credentials),
    };
    match allowed {
        Ok(()) if is_safe(request.method()) || is_from_here(request.headers()) => next.run(request).await,
        Ok(()) => (StatusCode::FORBIDDEN, "this request comes from another site's page").into_response(),
        Err(refused) => *refused,
    }
}

const fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a request that changes something comes from a page of this dashboard: browsers say so, and other sites' pages cannot.
fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => origin.split_once("://").is_some_and(|(_, host)| Some(host) == text("host")),
        // No browser.
        (None, None) => true,
    }
}

fn by_header(headers: &HeaderMap, name: &str, users: &[String]) -> Result<(), Box<Response>> {
    // One that comes twice is the client's own, and then the proxy's: whichever it is, nobody is believed.
    let mut given = headers.get_all(name).iter();
    let only = given.next().filter(|_| given.next().is_none());
    let user = only.and_then(|value| value.to_str().ok()).map(str::trim).filter(|user| !user.is_empty());
    match user {
        Some(user) if users.is_empty() || users.iter().any(|allowed| allowed == user) => Ok(()),
        Some(_) => Err((StatusCode::FORBIDDEN, "you are signed in, but not among the users of spec.dashboard.auth.header.users").into_response().into()),
        None => Err((StatusCode::UNAUTHORIZED, format!("no header {name}: this dashboard is reached through its proxy only")).into_response().into()),
    }
}

fn by_password(headers: &HeaderMap, credentials: &Credentials) -> Result<(), Box<Response>> {
    let known = match credentials.of(DASHBOARD_FOLDER) {
        Ok(Some(known)) => known,
        Ok(None) => return Err((StatusCode::SERVICE_UNAVAILABLE, "the dashboard's password is not mounted").into_response().into()),
        Err(error) => return Err((StatusCode::SERVICE_UNAVAILABLE, format!("the dashboard's password cannot be read: {error}")).into_response().into()),
    };
    let (user, password) = given(headers).unwrap_or_default();
    let is_user = user.as_bytes().ct_eq(known.user.as_bytes());
    let is_password = password.as_bytes().ct_eq(known.password.expose_secret().as_bytes());
    if bool::from(is_user & is_password) && !known.password.expose_secret().is_empty() {
        return Ok(());
    }
    let mut refused = (StatusCode::UNAUTHORIZED, "user name and password, please").into_response();
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tapeline\", charset=\"UTF-8\""));
    Err(refused.into())
}

/// User name and password of a request.
fn given(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(encoded.trim()).ok()).flatten()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[rstest]
    #[case::right(&[("x-user", "ann")], &[], 200)]
    #[case::of_the_list(&[("x-user", "ann")], &["bob", "ann"], 200)]
    #[case::not_of_the_list(&[("x-user", "eve")], &["bob", "ann"], 403)]
    #[case::nobody(&[], &[], 401)]
    #[case::empty(&[("x-user", " ")], &[], 401)]
    #[case::twice(&[("x-user", "ann"), ("x-user", "eve")], &["ann"], 401)]
    fn a_proxy_names_the_user(#[case] given: &[(&'static str, &str)], #[case] users: &[&str], #[case] status: u16) {
        let users: Vec<String> = users.iter().map(ToString::to_string).collect();
        let answer = by_header(&headers(given), "X-User", &users).map_or_else(|refused| refused.status().as_u16(), |()| 200);
        assert_eq!(answer, status);
    }

    #[rstest]
    #[case("Basic YW5uOnM6Y3JldA==", Some(("ann", "s:cret")))]
    #[case("basic YW5uOg==", Some(("ann", "")))]
    #[case("Basic YW5u", None)]
    #[case("Basic %", None)]
    #[case("Bearer YW5uOnM=", None)]
    fn a_password_comes_as_basic_authentication(#[case] header: &str, #[case] expected: Option<(&str, &str)>) {
        let expected = expected.map(|(user, password)| (user.to_owned(), password.to_owned()));
        assert_eq!(given(&headers(&[("authorization", header)])), expected);
    }

    #[test]
    fn a_password_is_compared_with_what_is_mounted() {
        let folder = std::env::temp_dir().join(format!("dashboard-auth-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("dashboard")).unwrap();
        std::fs::write(folder.join("dashboard/username"), "ann\n").unwrap();
        std::fs::write(folder.join("dashboard/password"), "s:cret\n").unwrap();
        let credentials = Credentials::new(folder.clone());
        let status =
            |header: &str| by_password(&headers(&[("authorization", header)]), &credentials).map_or_else(|refused| refused.status().as_u16(), |()| 200);
        assert_eq!(["Basic YW5uOnM6Y3JldA==", "Basic YW5uOg==", "Basic Ym9iOnM6Y3JldA==", ""].map(status), [200, 401, 401, 401]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(status("Basic YW5uOnM6Y3JldA=="), 503);
    }

    #[rstest]
    #[case::its_own_page(&[("sec-fetch-site", "same-origin")], true)]
    #[case::another_site(&[("sec-fetch-site", "cross-site")], false)]
    #[case::a_site_of_the_same_domain(&[("sec-fetch-site", "same-site")], false)]
    #[case::its_own_page_in_an_old_browser(&[("origin", "https://d.example"), ("host", "d.example")], true)]
    #[case::another_site_in_an_old_browser(&[("origin", "https://evil.example"), ("host", "d.example")], false)]
    #[case::curl(&[("host", "d.example")], true)]
    fn another_sites_page_changes_nothing(#[case] given: &[(&'static str, &str)], #[case] allowed: bool) {
        assert_eq!(is_from_here(&headers(given)), allowed);
    }
}
