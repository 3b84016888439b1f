//! The live page: HTML, CSS and JavaScript from `page/`, where their paths are those under which they are served.
//!
//! It only looks: it reads `/events` and asks `/explain`. Nothing of it comes from elsewhere, and its policy lets nothing
//! else in.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

/// A page that another on the same machine may show in a frame, as the demo does: who serves there could read the
/// sidecar's port anyway. Scripts may not make HTML of text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors http://127.0.0.1:* http://localhost:*; \
     require-trusted-types-for 'script'";

/// The files: their paths, types and texts.
macro_rules! files {
    ($($file:literal: $kind:literal,)*) => {
        &[$((concat!("/", $file), concat!($kind, "; charset=utf-8"), include_str!(concat!("page/", $file)))),*]
    };
}

const FILES: &[(&str, &str, &str)] = files! {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "parts/assess.js": "text/javascript",
    "parts/charts.js": "text/javascript",
    "parts/dom.js": "text/javascript",
    "parts/dots.js": "text/javascript",
    "parts/explain.js": "text/javascript",
    "parts/format.js": "text/javascript",
    "parts/lanes.js": "text/javascript",
    "parts/model.js": "text/javascript",
    "parts/panels.js": "text/javascript",
    "parts/reasons.js": "text/javascript",
};

/// The page's routes.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, &(path, kind, text)| {
        let path = if path == "/index.html" { "/" } else { path };
        let sum = Sha256::digest(text).iter().take(8).fold(String::new(), |sum, byte| format!("{sum}{byte:02x}"));
        let etag = format!("\"{sum}\"");
        router.route(path, get(async move |headers: HeaderMap| serve(&headers, kind, text, &etag)))
    })
}

/// A file, or that the browser has it. It asks each time: after an upgrade, files of two versions would not fit.
fn serve(asked: &HeaderMap, kind: &'static str, text: &'static str, etag: &str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
        (ETAG, etag),
    ];
    if asked.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else {
        (headers, text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn each_file_of_the_folder_is_served_under_its_path() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/observe/page");
        let mut found = Vec::new();
        for (folder, prefix) in [(folder.clone(), ""), (folder.join("parts"), "parts/")] {
            let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap());
            let files = files.filter(|file| file.file_type().unwrap().is_file());
            found.extend(files.map(|file| format!("/{prefix}{}", file.file_name().to_str().unwrap())));
        }
        let mut served: Vec<String> = FILES.iter().map(|(path, ..)| (*path).to_owned()).collect();
        found.sort();
        served.sort();
        assert_eq!(found, served);
    }

    #[test]
    fn the_page_names_nothing_from_elsewhere_and_has_nothing_inline() {
        for (path, _, text) in FILES.iter().filter(|(path, ..)| *path != "/icon.svg") {
            let addresses = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!addresses.contains("http://") && !addresses.contains("https://"), "{path}");
            assert!(!text.contains("style=") && !text.contains("innerHTML") && !text.contains("onclick"), "{path}");
        }
    }

    #[test]
    fn a_browser_that_has_a_file_is_told_so_and_the_policy_goes_with_each() {
        let fresh = serve(&HeaderMap::new(), "text/css", "a", "\"1\"");
        assert_eq!(fresh.status(), StatusCode::OK);
        assert_eq!(fresh.headers()[ETAG], "\"1\"");
        assert_eq!(fresh.headers()[CACHE_CONTROL], "no-cache");
        let asked = HeaderMap::from_iter([(IF_NONE_MATCH, "\"1\"".parse().unwrap())]);
        let known = serve(&asked, "text/css", "a", "\"1\"");
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
        for answer in [fresh, known] {
            assert!(answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none'"));
            assert_eq!(answer.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
    }
}
