"""How the bridge is doing: status, sentences, metrics, spans, the page, dashboards and alert rules."""
