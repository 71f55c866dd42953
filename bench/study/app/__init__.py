"""The Streamlit app: the pages of raters and of the study's owner."""
