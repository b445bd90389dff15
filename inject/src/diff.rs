//! The difference between two texts, as people read it.

use similar::TextDiff;

/// The unified difference; empty when there is none.
pub fn unified(old: &str, new: &str, (old_name, new_name): (&str, &str)) -> String {
    TextDiff::from_lines(old, new)
        .unified_diff()
        .context_radius(3)
        .header(old_name, new_name)
        .to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_difference_is_shown_with_what_surrounds_it() {
        let shown = super::unified("a\nb\nc\n", "a\nx\nc\n", ("old", "new"));
        assert_eq!(shown, "--- old\n+++ new\n@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n");
        assert_eq!(super::unified("a\n", "a\n", ("old", "new")), "");
    }
}
