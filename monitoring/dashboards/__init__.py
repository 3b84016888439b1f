"""The dashboards, by code: `llm_performance` and `warmpath_routing` say what is shown, `panels` how."""
