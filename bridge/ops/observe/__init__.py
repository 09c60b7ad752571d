"""Finding out how a PBX behaves where the vendor's page says nothing: asked gently, and told with how sure that is."""
