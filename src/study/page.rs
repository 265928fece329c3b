//! The page that raters see, one file without anything from elsewhere but its images.

use serde::Serialize;

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// What the page of a study that nobody serves says of where answers go, and that of one that is served.
pub(super) const COLLECT: [&str; 2] =
    [r#"<meta name="collect" content="no">"#, r#"<meta name="collect" content="yes">"#];

/// What the page knows: nothing of methods.
#[derive(Serialize)]
pub struct Page {
    pub id: String,
    /// Milliseconds before an answer is taken.
    pub minimum: u64,
    pub sets: Vec<Set>,
    pub booklets: Vec<Vec<Shown>>,
}

/// The targets of a concept.
#[derive(Serialize)]
pub struct Set {
    /// What the concept is.
    pub title: String,
    pub images: Vec<String>,
}

/// A trial as it is shown.
#[derive(Serialize)]
pub struct Shown {
    pub id: String,
    pub prompt: String,
    pub sets: Vec<usize>,
    pub left: String,
    pub right: String,
    pub practice: bool,
}

/// The page's text.
pub fn index(page: &Page) -> String {
    let json = serde_json::to_string(page).expect("strings and numbers");
    // no text can end the script element that it is in
    let json = json.replace('<', "\\u003c");
    // the data last: what stands in it is not looked through again
    HTML.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT).replace("/*STUDY*/", &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prompt_can_leave_its_place() {
        let prompt = "</script><script>alert(1)</script> /*STYLE*/ <!-- \"quoted\" \u{2028}";
        let shown = Shown {
            id: "a".into(),
            prompt: prompt.into(),
            sets: vec![0],
            left: "b".into(),
            right: "c".into(),
            practice: false,
        };
        let set = Set { title: "<b>".into(), images: vec![] };
        let page =
            Page { id: "s".into(), minimum: 1, sets: vec![set], booklets: vec![vec![shown]] };
        let text = index(&page);
        let start = text.find(r#"<script id="study" type="application/json">"#).unwrap();
        let json = text[start..].split_once('>').unwrap().1.split_once("</script>").unwrap().0;
        let read: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(read["booklets"][0][0]["prompt"], prompt);
        assert_eq!(text.matches("alert(1)").count(), 1);
        assert!(text.contains(COLLECT[0]) && !text.contains("/*SCRIPT*/"));
    }
}
