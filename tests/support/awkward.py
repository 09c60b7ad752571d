"""Names as people give them, and as somebody gives them who means no good."""

AWKWARD = (
    "<img src=x onerror=document.title='owned'><b>Erika</b>",
    "\u202eevil\u202c txt.exe",
    "شركة الاتصالات العربية المتحدة",
    "👩\u200d👩\u200d👧\u200d👦 Familie 🏳️\u200d🌈",
    "Z̸̡͝a̵͜l̶͠g̵o" * 30,
    "x" * 65536,
    "Zeile\nzwei\x00\x1b[31m",
    "&amp;&lt;script&gt;alert(1)&lt;/script&gt;",
)
