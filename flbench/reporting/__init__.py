"""Records rendered for people: boards, figures, pages."""
